#!/usr/bin/env bash
# Opens a report in headless Chromium: its charts must be there and no script may fail. Screenshots go to DIR.
#     ci/browser.sh report.html DIR
set -euo pipefail
report=$(realpath "$1")
mkdir -p "$2"
shots=$(realpath "$2")
profile=$(mktemp -d)
trap 'rm -rf "$profile"' EXIT

chrome() {
    timeout 120 chromium --headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking \
        --disable-component-update --disable-sync --hide-scrollbars --enable-logging=stderr --v=0 \
        --user-data-dir="$profile/$RANDOM" --virtual-time-budget=5000 "$@" "file://$report"
}

chrome --dump-dom > "$profile/dom.html" 2> "$profile/log"
if grep -E 'CONSOLE.*(Error|error|Refused)' "$profile/log"; then
    echo "the page reports an error" >&2
    exit 1
fi
charts=$(grep -o '<svg[^>]*role="img"' "$profile/dom.html" | wc -l)
[ "$charts" -ge 4 ] || { echo "expected at least 4 charts, found $charts" >&2; exit 1; }
chrome --window-size=1280,5200 --screenshot="$shots/report-desktop.png" 2> /dev/null
chrome --window-size=390,9000 --screenshot="$shots/report-phone.png" 2> /dev/null
for shot in report-desktop report-phone; do
    [ "$(stat -c %s "$shots/$shot.png")" -gt 50000 ] || { echo "$shot.png is blank" >&2; exit 1; }
done
echo "$charts charts, no errors; screenshots in $shots"
