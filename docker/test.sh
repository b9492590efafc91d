#!/usr/bin/env bash
# Builds serve-cpu, runs `docker compose up` and checks what docs/docker.md promises. Prints what it checked, the image's
# size and the time of a start. Needs bash, a Docker engine with compose v2, and the environment that `make serve` makes.
#
#   docker/test.sh
#   BASE_IMAGE=maskserve-base docker/test.sh                    another base image; docker/base.sh makes a stand-in
#   PIP_CONFIG_FILE=pip.conf PIP_CERT=ca.pem docker/test.sh     the machine's own way to the package index
#   TEST_TRAIN=1 docker/test.sh                                 trains a little, too (an image of several GB)
#
# DOCKER_HOST chooses the engine. Leaves the images and removes everything else.
set -euo pipefail
cd "$(dirname "$0")/.."

python=${PYTHON:-.venv/bin/python}
image=model/samples/nuclei/stained.png
limit_mb=700
export COMPOSE_PROJECT_NAME=maskserve-test-$$
export PUBLISH=127.0.0.1:${PORT:-8765}
url=http://$PUBLISH
plain_url=http://127.0.0.1:$((${PORT:-8765} + 1))
work=$(mktemp -d)
plain=

compose=(docker compose -f docker-compose.yml)
if [[ -n ${PIP_CONFIG_FILE:-}${PIP_CERT:-} ]]; then
    compose+=(-f docker/compose.index.yml)
fi

say() { printf '%s\n' "$*"; }
ok() { say "ok    $*"; }
fail() {
    say "FAIL  $*" >&2
    "${compose[@]}" logs --tail 20 serve >&2 || true
    exit 1
}
cleanup() {
    [[ -z $plain ]] || kill "$plain" 2>/dev/null || true
    "${compose[@]}" --profile train down --volumes --timeout 5 >/dev/null 2>&1 || true
    rm -rf "$work"
}
trap cleanup EXIT

status() { curl --silent --output /dev/null --write-out '%{http_code}' "$1" || true; }
wait_for() { # URL: until it answers 200
    for ((i = 0; i < 3000; i++)); do
        [[ $(status "$1") == 200 ]] && return
        sleep 0.02
    done
    fail "$1 never answered 200"
}
in_container() { "${compose[@]}" exec -T serve "$@"; }
predict() { curl --silent --show-error --fail --form "file=@$image" "$1/predict"; }
version() { "$python" -c 'import json, sys; print(json.load(sys.stdin)["model"]["version"])'; }
# Predictions that the server logged as answered with 200.
answered() { "${compose[@]}" logs --no-log-prefix serve | grep -c '"route":"/predict","status":200' || true; }
number() { "$python" -c 'import json, sys; print(json.load(open(sys.argv[1])).get(sys.argv[2], 0))' "$@"; }

docker info >/dev/null 2>&1 || { say "no Docker engine answers; start one, or set DOCKER_HOST" >&2; exit 2; }
docker compose version >/dev/null 2>&1 || { say "docker compose is missing; install the compose plugin" >&2; exit 2; }
[[ -x $python ]] || { say "$python is missing; run make serve once, or set PYTHON" >&2; exit 2; }

build() { # SERVICE
    "${compose[@]}" --progress plain build "$1" >"$work/build.log" 2>&1 || { tail -30 "$work/build.log" >&2; exit 1; }
}

say "build"
build serve
size=$(docker image inspect --format '{{.Size}}' maskserve:cpu)
size_mb=$(((size + 500000) / 1000000))
((size <= limit_mb * 1000000)) || fail "maskserve:cpu has $size_mb MB, more than $limit_mb"
ok "maskserve:cpu is built and has $size_mb MB"

say "start"
"${compose[@]}" up --no-start --quiet-pull serve 2>/dev/null
began=$(date +%s%N)
"${compose[@]}" up --detach --quiet-pull serve 2>/dev/null
wait_for "$url/readyz"
up_ms=$((($(date +%s%N) - began) / 1000000))
ok "docker compose up to ready: $up_ms ms; $("${compose[@]}" logs --no-log-prefix serve | grep --only-matching 'maskserve: .*ready.*')"

say "the image"
[[ $(in_container id -u) == 10001 ]] || fail "it runs as $(in_container id)"
in_container touch /app/x 2>/dev/null && fail "the root filesystem can be written"
in_container touch /models/x 2>/dev/null && fail "the server can write the models"
ok "not root, a root filesystem and models that cannot be written"
in_container sh -c 'command -v gcc cc c++ clang ld as make' && fail "there is a compiler"
in_container python -c 'from importlib.util import find_spec; raise SystemExit(find_spec("torch") is not None)' ||
    fail "there is torch"
ok "no compiler, no torch"
same='cd /app/kernels && for file in */*; do cmp -s "$file" "/tmp/kernels/$file" || exit 1; done &&
    [ "$(find . -type f | wc -l)" = "$(find /tmp -type f | wc -l)" ]'
in_container bash -c "$same" || fail "kernels were compiled at the start, or something else is in /tmp"
ok "the kernels are the image's, nothing else was written"
for ((i = 0; i < 100; i++)); do
    health=$(docker inspect --format '{{.State.Health.Status}}' "$("${compose[@]}" ps --quiet serve)")
    [[ $health == healthy ]] && break
    sleep 0.2
done
[[ $health == healthy ]] || fail "its health is $health"
ok "healthy"

say "an answer"
began=$(date +%s%N)
"$python" -m service --port "${plain_url##*:}" >"$work/plain.log" 2>&1 &
plain=$!
wait_for "$plain_url/readyz"
plain_ms=$((($(date +%s%N) - began) / 1000000))
predict "$plain_url" >"$work/plain.json"
predict "$url" >"$work/container.json"
kill "$plain"
wait "$plain" || true
plain=
"$python" - "$work/plain.json" "$work/container.json" <<'EOF' || fail "the container answers otherwise"
import json, sys
plain, container = (json.load(open(name)) for name in sys.argv[1:])
del plain["timing_ms"], container["timing_ms"]
assert len(plain["scores"]) > 10, "the image should hold many nuclei"
assert plain == container
EOF
ok "$(number "$work/container.json" scores | tr ',' '\n' | wc -l) detections, the same as the plain service's to the last digit"

say "a new version"
"$python" docker/load.py "$url" "$image" --clients 4 --seconds 15 >"$work/reload.json" &
load=$!
sleep 2
# Into the volume as training does it, by the same user.
docker run --rm --interactive --volume "${COMPOSE_PROJECT_NAME}_models:/models" --entrypoint python maskserve:cpu - <<'EOF'
import shutil, tempfile
from pathlib import Path
from model.runtime.bundles.bundle import ManifestDraft, open_bundle, publish_bundle

first = open_bundle(Path("/models/nuclei/1"))
draft = ManifestDraft(**{name: getattr(first.manifest, name) for name in ManifestDraft.model_fields})
with tempfile.TemporaryDirectory() as staging:
    for name in first.manifest.files:
        shutil.copy(first.file(name), staging)
    for model in ("nuclei", "other"):
        publish_bundle(Path(staging), draft, Path("/models"), model)
EOF
wait "$load"
say "      $(cat "$work/reload.json")"
total=$(number "$work/reload.json" 200)
((total > 0 && total == $(number "$work/reload.json" "version 1") + $(number "$work/reload.json" "version 2"))) ||
    fail "answers are missing"
(($(number "$work/reload.json" "version 1") > 0 && $(number "$work/reload.json" "version 2") > 0)) ||
    fail "it was not reloaded under load"
"$python" -c 'import json, sys; sys.exit(any(not key.startswith(("200", "version")) for key in json.load(open(sys.argv[1]))))' \
    "$work/reload.json" || fail "requests failed while it was reloaded"
ok "version 2 took over under load, $total answers, none failed"
"${compose[@]}" restart serve 2>/dev/null
wait_for "$url/readyz"
[[ $(predict "$url" | version) == 2 ]] || fail "after a restart the default is not nuclei/2"
ok "restarted with a second model in the volume, nuclei/2 is still the default"

if [[ -n ${TEST_TRAIN:-} ]]; then
    say "training"
    build train
    say "      maskserve:train has $(($(docker image inspect --format '{{.Size}}' maskserve:train) / 1000000)) MB"
    "${compose[@]}" run --rm train --schedule.iterations 30 --schedule.warmup 5 --validation.every 0
    for ((i = 0; i < 100; i++)); do
        [[ $(status "$url/models/shapes") == 200 ]] && break
        sleep 0.2
    done
    curl --silent --fail --form "file=@$image" "$url/predict?model=shapes&masks=none" >/dev/null ||
        fail "the running service does not serve what was trained"
    ok "docker compose run train published shapes/1 and the running service serves it"
fi

say "stop in the middle of load"
before=$(answered)
"$python" docker/load.py "$url" "$image" --clients 12 --seconds 120 >"$work/stop.json" &
load=$!
sleep 4
"${compose[@]}" stop serve 2>/dev/null
wait "$load"
say "      $(cat "$work/stop.json")"
code=$(docker inspect --format '{{.State.ExitCode}}' "$("${compose[@]}" ps --all --quiet serve)")
[[ $code == 0 ]] || fail "it ended with $code"
got=$(number "$work/stop.json" 200)
sent=$(($(answered) - before))
((got > 0 && got == sent)) || fail "the server answered $sent requests, the clients got $got"
ok "exit code 0; $sent accepted and answered, the clients got all of them"

say "figures"
base=$(docker image inspect --format '{{.Size}}' "${BASE_IMAGE:-python:3.11-slim-bookworm}" 2>/dev/null || true)
say "image size      $size_mb MB ($size bytes${base:+; the base image $(((base + 500000) / 1000000)) MB})"
say "start           $up_ms ms from docker compose up to ready; the plain service $plain_ms ms"
say "everything passed"
