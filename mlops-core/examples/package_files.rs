//! A model's directory, signed, checked, and as one file:
//!
//! ```text
//! cargo run -p mlops-core --example package_files -- sign DIR KEY.pem SIGNED_DIR [sha256|blake3]
//! cargo run -p mlops-core --example package_files -- verify DIR KEY.pub.pem
//! cargo run -p mlops-core --example package_files -- pack DIR FILE.tar
//! cargo run -p mlops-core --example package_files -- unpack FILE.tar DIR
//! ```
//! The directory is what `mlflow` or this toolkit wrote. The signature is the one of `model_signing`, so
//! `model_signing verify key DIR --signature DIR/model.sig --public_key KEY.pub.pem` agrees.

use std::fs::File;
use std::io::{Read, Write};

use bytes::Bytes;
use futures::{TryStreamExt, stream};
use mlops_core::package::signing::{HashType, PublicKey, SignOptions, SigningKey, Verifier};
use mlops_core::package::{Limits, Manifest};
use mlops_core::store::LocalStore;

fn main() {
    if let Err(error) = futures::executor::block_on(run()) {
        eprintln!("{error}");
        std::process::exit(1);
    }
}

async fn run() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let work = tempfile::tempdir()?;
    let store = LocalStore::open(work.path())?;
    match arguments[..] {
        ["sign", dir, key, signed, ref hash @ ..] => {
            let hash = if hash == ["blake3"] { HashType::Blake3 } else { HashType::Sha256 };
            let key = SigningKey::from_pem(&std::fs::read_to_string(key)?)?;
            let package = Manifest::import_dir(&store, dir, Limits::default(), None).await?;
            let package = package.sign(&store, &key, &SignOptions::new("model").hash(hash)).await?;
            package.export_dir(&store, signed).await?;
            println!("package {}", package.digest()?);
        }
        ["verify", dir, key] => {
            let verifier = Verifier::new([PublicKey::from_pem(&std::fs::read_to_string(key)?)?]);
            let package = Manifest::import_dir(&store, dir, Limits::default(), None).await?;
            let verified = verifier.verify(&store, &package).await?;
            println!("{} files of {:?} as signed by key {}", verified.files, verified.name, verified.key);
        }
        ["pack", dir, file] => {
            let package = Manifest::import_dir(&store, dir, Limits::default(), None).await?;
            let (mut pieces, mut file) = (package.export_archive(&store)?, File::create_new(file)?);
            while let Some(piece) = pieces.try_next().await? {
                file.write_all(&piece)?;
            }
            println!("package {}", package.digest()?);
        }
        ["unpack", file, dir] => {
            let pieces = stream::try_unfold(File::open(file)?, |mut file| async {
                let mut piece = Vec::new();
                let read = Read::by_ref(&mut file).take(1 << 20).read_to_end(&mut piece);
                read.map_err(|e| mlops_core::Error::invalid("file", e))?;
                Ok((!piece.is_empty()).then(|| (Bytes::from(piece), file)))
            });
            let package = Manifest::import_archive(&store, pieces, Limits::default(), None).await?;
            package.export_dir(&store, dir).await?;
            println!("package {}", package.digest()?);
        }
        _ => return Err("say `sign`, `verify`, `pack` or `unpack`, and of what".into()),
    }
    Ok(())
}
