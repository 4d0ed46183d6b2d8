#!/bin/bash
#PBS -N br-abcdefghijkl
#PBS -o /data/runs/q/tasks/k/attempt-1/sched/pbs.out
#PBS -j oe
#PBS -S /bin/bash
#PBS -r n
#PBS -q gpuq
#PBS -l select=1:ncpus=4:ngpus=1:mem=15259mb:gputype=v100
#PBS -l walltime=36:00:00
# quickstart: rl variant=binary seed=1, attempt 1
job=${PBS_JOBID:-}
restart=0
# Torque names the job's GPUs in a file (node-gpu0) and leaves the choice to the job.
if [ -z "${CUDA_VISIBLE_DEVICES:-}" ] && [ -s "${PBS_GPUFILE:-}" ]; then
    gpus=$(sed -n 's/.*-gpu\([0-9][0-9]*\)$/\1/p' "$PBS_GPUFILE" | paste -sd, -)
    if [ -n "$gpus" ]; then export CUDA_VISIBLE_DEVICES="$gpus"; fi
fi
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
