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
    echo "--- $*"
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
cargo run --locked --release --quiet -p mlops-core --example lineage_events -- "$work/lineage.jsonl" > "$work/lineage.txt"
"$python" ci/lineage_client.py "$work/lineage.jsonl"

step "golden numbers, made again"
"$python" ci/golden.py

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
MLOPS_TEST_S3="$endpoint" cargo test --locked -p mlops-core --features s3,cedar --test it -- --include-ignored store_s3 cedar
kill "$s3"
trap - EXIT

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
