#!/bin/bash
# quickstart: rl variant=binary seed=1, attempt 1
# The job's id: this process and its start time (field 22 of its stat), which no later process can have.
read -r stat <"/proc/$$/stat"
read -ra stat <<<"${stat##*) }"
job="$$-${stat[19]}"
restart=0
set -euo pipefail
# Exit codes: 77 = this attempt could not be set up. The rest is the supervisor's (see `bessemer help exit-codes`).
fail() { printf 'bessemer: %s\n' "$1" >&2; exit 77; }
attempt='/data/runs/q/tasks/k/attempt-1'
bessemer='/opt/bessemer/bin/bessemer'
cd -- "$attempt" || fail "no directory $attempt on ${HOSTNAME:-this node}"
exec >>"$attempt/log.txt" 2>&1 || fail "cannot write $attempt/log.txt"
TZ=UTC printf 'bessemer: job %s on %s, restart %s, %(%Y-%m-%dT%H:%M:%SZ)T\n' "$job" "${HOSTNAME:-?}" "$restart" -1
export BESSEMER_JOB_ID="$job" BESSEMER_RESTART="$restart" OMP_NUM_THREADS=4
export BESSEMER_WORKER='/opt/bessemer/bin/bessemer-worker'
[ -x "$bessemer" ] || fail "$bessemer is no program on ${HOSTNAME:-this node}: set programs.bessemer in the site file"

# Node-local scratch: the supervisor makes it (mode 0700) and removes it; what is left when it was killed goes here.
scratch=
for base in "${TMPDIR:-}" '/tmp'; do
    if [ -n "$base" ] && [ -d "$base" ] && [ -w "$base" ]; then
        scratch=$base/bessemer.$$.$RANDOM$RANDOM$RANDOM
        break
    fi
done
if [ -n "$scratch" ]; then
    export BESSEMER_SCRATCH="$scratch"
    trap 'if [ -O "$scratch" ] && [ ! -L "$scratch" ]; then rm -rf -- "$scratch"; fi' EXIT
fi

# bash runs a trap only when `wait` returns, and `wait` then returns early: hence the loop.
child=
pending=
signalled=0
# shellcheck disable=SC2317  # the traps call it
forward() {
    signalled=1
    if [ -n "$child" ]; then kill -s "$1" -- "$child" 2>/dev/null || :; else pending=$1; fi
}
trap 'forward USR2' USR2
trap 'forward TERM' TERM INT
"$bessemer" task run "$attempt/task.json" &
child=$!
if [ -n "$pending" ]; then kill -s "$pending" -- "$child" 2>/dev/null || :; fi
while :; do
    signalled=0
    rc=0
    wait "$child" || rc=$?
    [ "$signalled" = 1 ] || break
done
printf 'bessemer: exit %s\n' "$rc"
exit "$rc"
