#!/usr/bin/env bash
# The Python MLflow client against `mlflow server` and against ours, on SQLite and on PostgreSQL: it must see the same, but
# for what `mlflow_client.py` allows with a reason. `mlflow.sh PYTHON BINARY DIR [POSTGRES_URL]`; PYTHON has
# requirements-mlflow.txt installed. Starts its servers on loopback and stops them. With MLOPS_TEST_CLIENT, the
# program of the registry's tests, also the conformance suites of our client against `mlflow server`.
set -euo pipefail
python=$1
binary=$2
work=$3
postgres=${4:-}
here=$(cd "$(dirname "$0")" && pwd)
export MLFLOW_DISABLE_TELEMETRY=true DO_NOT_TRACK=true MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false
# Webhooks go to the client itself, and their list is asked for each time.
export MLFLOW_WEBHOOK_ALLOWED_SCHEMES=http,https MLFLOW_WEBHOOK_ALLOW_PRIVATE_IPS=true MLFLOW_WEBHOOK_CACHE_TTL=0

rm -rf "$work"
mkdir -p "$work"
running=()
stop() {
    for pid in "${running[@]}"; do kill -- "-$pid" 2> /dev/null || kill "$pid" 2> /dev/null || true; done
    for pid in "${running[@]}"; do wait "$pid" 2> /dev/null || true; done
    running=()
}
trap stop EXIT
# Each server is the leader of a process group, so that what it started ends with it.
set -m

answers() { # url
    for _ in $(seq 300); do
        if curl -fsS "$1/health" > /dev/null 2>&1; then return; fi
        sleep 0.3
    done
    echo "$1 does not answer" >&2
    exit 1
}

port=$("$python" -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
"$(dirname "$python")/mlflow" server --workers 1 --host 127.0.0.1 --port "$port" \
    --backend-store-uri "sqlite:///$work/theirs.db" --artifacts-destination "$work/theirs" > "$work/theirs.log" 2>&1 &
running+=($!)
answers "http://127.0.0.1:$port"
client() { # url, name
    "$python" "$here/mlflow_client.py" run "$1" "$work/$2.json" > "$work/$2.log" 2>&1 || {
        cat "$work/$2.log" >&2
        exit 1
    }
}
client "http://127.0.0.1:$port" theirs
stop

# Our client on theirs: each case in a workspace of its own.
if [ -n "${MLOPS_TEST_CLIENT:-}" ]; then
    "$(dirname "$python")/mlflow" server --workers 2 --enable-workspaces --host 127.0.0.1 --port "$port" \
        --backend-store-uri "sqlite:///$work/ours.db" --artifacts-destination "$work/ours" > "$work/ours.log" 2>&1 &
    running+=($!)
    answers "http://127.0.0.1:$port"
    MLOPS_TEST_MLFLOW="http://127.0.0.1:$port" "$MLOPS_TEST_CLIENT" on_mlflow --ignored --test-threads 2
    stop
fi

ours() { # name, flags...
    "$binary" --listen 127.0.0.1:0 --webhook-network 127.0.0.0/8 --data "$work/$1" "${@:2}" > "$work/$1.out" 2> "$work/$1.err" &
    running+=($!)
    for _ in $(seq 100); do
        url=$(sed -n 's/^listening on \(http:[^,]*\),.*/\1/p' "$work/$1.out")
        [ -n "$url" ] && break
        sleep 0.1
    done
    [ -n "$url" ] || { cat "$work/$1.err" >&2; exit 1; }
    client "$url" "$1"
    stop
    echo "MLflow's client, $1 against mlflow server:"
    "$python" "$here/mlflow_client.py" diff "$work/$1.json" "$work/theirs.json"
}
ours sqlite
if [ -n "$postgres" ]; then ours postgres --database-url "$postgres"; fi
