//! Small symmetric matrices, row by row in one slice.

/// Replaces the lower triangle of a symmetric matrix by its Cholesky factor; `Err` is the first column that depends on
/// those before it, up to rounding.
pub(super) fn cholesky(a: &mut [f64], p: usize) -> Result<(), usize> {
    for j in 0..p {
        let whole = a[j * p + j];
        for k in 0..j {
            a[j * p + j] -= a[j * p + k] * a[j * p + k];
        }
        let pivot = a[j * p + j];
        if pivot.is_nan() || pivot <= 1e-12 * whole || pivot == f64::INFINITY {
            return Err(j);
        }
        let root = pivot.sqrt();
        a[j * p + j] = root;
        for i in j + 1..p {
            let mut x = a[i * p + j];
            for k in 0..j {
                x -= a[i * p + k] * a[j * p + k];
            }
            a[i * p + j] = x / root;
        }
    }
    Ok(())
}

/// Solves `L Lᵀ x = b` in place.
pub(super) fn solve_cholesky(l: &[f64], p: usize, b: &mut [f64]) {
    for i in 0..p {
        for k in 0..i {
            b[i] -= l[i * p + k] * b[k];
        }
        b[i] /= l[i * p + i];
    }
    for i in (0..p).rev() {
        for k in i + 1..p {
            b[i] -= l[k * p + i] * b[k];
        }
        b[i] /= l[i * p + i];
    }
}

/// Eigenvalues in descending order with their vectors (each a row), by Jacobi's rotations.
pub(super) fn eigen(mut a: Vec<f64>, p: usize) -> (Vec<f64>, Vec<f64>) {
    let mut v = vec![0.0; p * p];
    (0..p).for_each(|i| v[i * p + i] = 1.0);
    for _ in 0..60 {
        let (mut off, mut on) = (0.0, 0.0);
        for i in 0..p {
            for j in 0..p {
                *(if i == j { &mut on } else { &mut off }) += a[i * p + j] * a[i * p + j];
            }
        }
        if off <= 1e-30 * on {
            break;
        }
        for i in 0..p {
            for j in i + 1..p {
                let x = a[i * p + j];
                if x == 0.0 {
                    continue;
                }
                let theta = (a[j * p + j] - a[i * p + i]) / (2.0 * x);
                let t = theta.signum() / (theta.abs() + (theta * theta + 1.0).sqrt());
                let c = 1.0 / (t * t + 1.0).sqrt();
                let s = t * c;
                for k in 0..p {
                    let (y, z) = (a[k * p + i], a[k * p + j]);
                    a[k * p + i] = c * y - s * z;
                    a[k * p + j] = s * y + c * z;
                }
                for k in 0..p {
                    let (y, z) = (a[i * p + k], a[j * p + k]);
                    a[i * p + k] = c * y - s * z;
                    a[j * p + k] = s * y + c * z;
                    let (y, z) = (v[i * p + k], v[j * p + k]);
                    v[i * p + k] = c * y - s * z;
                    v[j * p + k] = s * y + c * z;
                }
            }
        }
    }
    let mut order: Vec<usize> = (0..p).collect();
    order.sort_by(|i, j| a[j * p + j].total_cmp(&a[i * p + i]));
    let values = order.iter().map(|i| a[i * p + i]).collect();
    let vectors = order.iter().flat_map(|i| v[i * p..(i + 1) * p].to_vec()).collect();
    (values, vectors)
}

/// Solves `A x = b` for a general matrix by elimination with row pivots; `Err` is the first column without one.
pub(super) fn invert(mut a: Vec<f64>, p: usize) -> Result<Vec<f64>, usize> {
    let mut inverse = vec![0.0; p * p];
    (0..p).for_each(|i| inverse[i * p + i] = 1.0);
    let most = a.iter().fold(0.0_f64, |most, x| most.max(x.abs()));
    for j in 0..p {
        let pivot = (j..p).max_by(|x, y| a[x * p + j].abs().total_cmp(&a[y * p + j].abs())).unwrap_or(j);
        let x = a[pivot * p + j];
        if x.is_nan() || x.abs() <= 1e-10 * most {
            return Err(j);
        }
        for k in 0..p {
            a.swap(pivot * p + k, j * p + k);
            inverse.swap(pivot * p + k, j * p + k);
        }
        for k in 0..p {
            a[j * p + k] /= x;
            inverse[j * p + k] /= x;
        }
        for i in (0..p).filter(|i| *i != j) {
            let factor = a[i * p + j];
            for k in 0..p {
                a[i * p + k] -= factor * a[j * p + k];
                inverse[i * p + k] -= factor * inverse[j * p + k];
            }
        }
    }
    Ok(inverse)
}
