#!/usr/bin/env bash
# Counts the crates that each member links by default and without features, against ci/dependency-budget.txt.
set -euo pipefail
cd "$(dirname "$0")/.."

count() { # member, flags...
    cargo tree --locked -p "$1" --edges normal --prefix none --format '{p}' "${@:2}" | sed 's/ (.*//' | sort -u | grep -vc "^$1 "
}

failed=0
printf '%-16s %8s %8s %14s %8s\n' member default budget 'no features' budget
while read -r member default bare; do
    case $member in ''|'#'*) continue ;; esac
    is_default=$(count "$member")
    is_bare=$(count "$member" --no-default-features)
    printf '%-16s %8d %8d %14d %8d\n' "$member" "$is_default" "$default" "$is_bare" "$bare"
    if [ "$is_default" -gt "$default" ] || [ "$is_bare" -gt "$bare" ]; then
        echo "$member is over its budget: drop a dependency, or say in the commit why the budget grows" >&2
        failed=1
    fi
done < ci/dependency-budget.txt

# What the monitor promises to do without.
if cargo tree --locked -p mlops-monitor --no-default-features --edges normal --prefix none | grep -E '^(tokio|sqlx|hyper|http|object_store|parquet)(-[a-z]+)? '; then
    echo "mlops-monitor without features links one of the crates above" >&2
    failed=1
fi
# What nobody gets by default: a second language, a network stack's encryption, a C++ build.
for member in mlops-core mlops-registry mlops-monitor mlops-serve mlops-pipeline; do
    if cargo tree --locked -p "$member" --edges normal,build --prefix none | grep -E '^(openssl|rustls|native-tls|ring|aws-lc|pyo3|cxx|cmake)(-[a-z]+)? '; then
        echo "$member links one of the crates above by default" >&2
        failed=1
    fi
done
exit $failed
