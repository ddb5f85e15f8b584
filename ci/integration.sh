#!/usr/bin/env bash
# The second tier: what needs Python or a browser. Installs both by package name, checks what the main job wrote, and
# makes the golden numbers again. Starts nothing that it does not stop.
set -euo pipefail
cd "$(dirname "$0")/.."
target="${CARGO_TARGET_DIR:-$PWD/target}"
work="$target/integration"
out="$work/lifecycle"
mkdir -p "$work"

step() {
    echo "--- $* (after $SECONDS s)"
}

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi
}

step "the main job, a tenth of the stream"
cargo run --locked --release --bin lifecycle -- --quick --out "$out" > "$work/lifecycle.txt" 2> "$work/lifecycle.log"

step "Python packages"
python3 -m venv "$work/python" 2> /dev/null || {
    as_root apt-get update -qq
    as_root apt-get install -y -qq python3-venv > /dev/null
    python3 -m venv "$work/python"
}
"$work/python/bin/pip" install --quiet --disable-pip-version-check -r ci/requirements.txt
python="$work/python/bin/python"

step "what the main job wrote, read by Python"
"$python" ci/read_back.py "$out"

step "lineage events, read by the OpenLineage client"
rm -f "$work/lineage.jsonl"
# As `cargo test --workspace` built them.
cargo build --locked --quiet --workspace --examples
"$target/debug/examples/lineage_events" "$work/lineage.jsonl" > "$work/lineage.txt"
"$python" ci/lineage_client.py "$work/lineage.jsonl"

step "packages signed and packed, exchanged with Python"
"$python" ci/packages.py "$target/debug/examples/package_files" "$work/packages"

step "a model card, read by the programs it is for"
"$target/debug/examples/model_card" "$work/card" > "$work/card.txt"
"$python" ci/model_card.py "$work/card"

step "golden numbers, made again"
"$python" ci/golden.py

step "the tests that need a server, built once with every feature they need"
with_servers=(-p mlops-core -p mlops-registry
    --features mlops-core/s3,mlops-core/cedar,mlops-core/delta,mlops-registry/postgres)
cargo test --locked --no-run --message-format=json-render-diagnostics "${with_servers[@]}" --test it > "$work/built.json"
core_tests() { tests_of mlops-core "$@"; }
registry_tests() { tests_of mlops-registry "$@"; }
tests_of() { # package, flags of its test program...
    local program
    program=$(program_of "$1")
    (cd "$1" && "$program" "${@:2}")
}
program_of() { # package
    grep -F "/$1/tests/it/main.rs" "$work/built.json" | sed -n 's/.*"executable":"\([^"]*\)".*/\1/p'
}

step "an S3 server, straight and through faults; Cedar policies"
"$work/python/bin/moto_server" -H 127.0.0.1 -p 0 > "$work/s3.log" 2>&1 &
s3=$!
trap 'kill "$s3" 2> /dev/null || true' EXIT
for _ in $(seq 100); do
    endpoint=$(sed -n 's/.*Running on \(http:[^ ]*\).*/\1/p' "$work/s3.log" | head -n 1)
    [ -n "$endpoint" ] && curl -fsS -o /dev/null -X PUT "$endpoint/models" && break
    sleep 0.3
done
[ -n "$endpoint" ] || { cat "$work/s3.log" >&2; exit 1; }
MLOPS_TEST_S3="$endpoint" core_tests store_s3 --include-ignored
core_tests cedar
kill "$s3"
trap - EXIT

step "a PostgreSQL server: the suites, many processes, kills and crashes"
if ! find /usr/lib/postgresql -name initdb 2> /dev/null | grep -q .; then
    # Without the cluster that the package would make and start.
    as_root apt-get update -qq
    as_root apt-get install -y -qq --no-install-recommends postgresql-common > /dev/null
    as_root sed -i 's/^#*create_main_cluster.*/create_main_cluster = false/' /etc/postgresql-common/createcluster.conf
    as_root apt-get install -y -qq --no-install-recommends postgresql > /dev/null
fi
database=$(mktemp -d)
chmod 755 "$database"
postgres=$(ci/postgres.sh start "$database/server")
trap 'ci/postgres.sh stop "$database/server" || true' EXIT
# 300 kills take three minutes more.
MLOPS_TEST_POSTGRES="$postgres" MLOPS_TEST_CALLS=1000 MLOPS_TEST_KILLS=100 \
    registry_tests --include-ignored --skip figures --skip crashes_of_the_server --skip on_mlflow

step "the MLflow client against mlflow server and ours, and our client against mlflow server"
cargo build --locked --release --quiet --bin registry_server
python3 -m venv "$work/mlflow"
"$work/mlflow/bin/pip" install --quiet --disable-pip-version-check -r ci/requirements-mlflow.txt
MLOPS_TEST_CLIENT="$(program_of mlops-registry)" \
    ci/mlflow.sh "$work/mlflow/bin/python" "$target/release/registry_server" "$work/mlflow-data" "$postgres"

step "crashes of a PostgreSQL server"
ci/postgres.sh stop "$database/server"
# One of its own for this: what a server holds is what it recovers, after each crash.
postgres=$(ci/postgres.sh start "$database/server-2")
trap 'ci/postgres.sh stop "$database/server-2" || true' EXIT
MLOPS_TEST_POSTGRES="$postgres" MLOPS_TEST_POSTGRES_CRASH="$PWD/ci/postgres.sh crash $database/server-2" \
    MLOPS_TEST_CRASHES=20 registry_tests crashes_of_the_server --ignored
ci/postgres.sh stop "$database/server-2"
trap - EXIT
as_root rm -r "$database"

step "a full disk, a folder without permission, 5 GiB through 64 MiB"
small=$(mktemp -d)
if as_root mount -t tmpfs -o size=16m,mode=777 tmpfs "$small"; then
    trap 'as_root umount "$small"' EXIT
    MLOPS_TEST_SMALL_DISK="$small" core_tests a_full_disk --ignored
    as_root umount "$small"
    trap - EXIT
else
    echo "not allowed to mount a small file system: the full disk is not tested"
fi
if [ "$(id -u)" = 0 ]; then
    # The superuser has every permission, so somebody else runs this one.
    cp "$(program_of mlops-core)" "$small/it"
    chmod 755 "$small" "$small/it"
    (cd / && setpriv --reuid 65534 --regid 65534 --clear-groups "$small/it" a_directory_without_permission)
    rm "$small/it"
fi
rmdir "$small"
stream=5120
if [ "$(df --output=avail -BM "$work" | tr -dc 0-9)" -lt 8192 ]; then
    stream=1024
    echo "less than 8 GiB of disk are free: 1 GiB is streamed"
fi
MLOPS_TEST_STREAM_MIB=$stream TMPDIR="$work" core_tests a_large_blob --nocapture

step "Delta tables: ours read by Python, Python's by us"
rm -rf "$work/delta"
mkdir "$work/delta"
export MLOPS_TEST_DELTA="$work/delta"
core_tests delta::
core_tests delta::python_first --ignored
"$python" ci/delta_tables.py "$work/delta"
core_tests delta::python_then --ignored
cargo test --locked "${with_servers[@]}" --doc DeltaDatasets

step "the report in a browser"
if ! command -v chromium > /dev/null; then
    as_root apt-get update -qq
    as_root apt-get install -y -qq --no-install-recommends chromium fonts-dejavu-core > "$work/apt.log" 2>&1 || {
        cat "$work/apt.log"
        exit 1
    }
fi
ci/browser.sh "$out/report.html" "$target/screenshots"

step "integration tier passed"
