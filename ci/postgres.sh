#!/usr/bin/env bash
# A PostgreSQL server for tests: `start DIR` prints its URL, `crash DIR` stops it at once and starts it again, `stop DIR`
# ends it. Everything it has is in DIR. Its text is ordered by a language, so that a test sees what must not depend on it.
set -euo pipefail
command=$1
dir=$2
bin=$(dirname "$(find /usr/lib/postgresql /usr/local /usr/bin -name initdb 2> /dev/null | sort -V | tail -n 1)")

# PostgreSQL refuses to run as the superuser.
unprivileged() {
    if [ "$(id -u)" = 0 ]; then
        (cd / && setpriv --reuid 65534 --regid 65534 --clear-groups "$@")
    else
        "$@"
    fi
}

control() {
    unprivileged "$bin/pg_ctl" -D "$dir/data" -w -l "$dir/log" "$@" > /dev/null
}

start() {
    control -o "-p $(cat "$dir/port") -c listen_addresses=127.0.0.1 -c unix_socket_directories= -c max_connections=200 -c recovery_init_sync_method=syncfs" start
}

case $command in
start)
    mkdir -p "$dir"
    if [ "$(id -u)" = 0 ]; then chown 65534:65534 "$dir"; fi
    unprivileged "$bin/initdb" -D "$dir/data" -U mlops -A trust -E UTF8 --locale=C.UTF-8 \
        --locale-provider=icu --icu-locale=en-US > "$dir/initdb.txt"
    # A port that was free a moment ago; another one where somebody else was faster.
    for _ in 1 2 3 4 5; do
        python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])' > "$dir/port"
        if start; then
            echo "postgres://mlops@127.0.0.1:$(cat "$dir/port")/postgres"
            exit 0
        fi
    done
    cat "$dir/log" >&2
    exit 1
    ;;
crash)
    control -m immediate stop
    start
    ;;
stop)
    control -m fast stop
    ;;
*)
    echo "postgres.sh: unknown command $command" >&2
    exit 2
    ;;
esac
