#!/bin/bash
# Debian packages that the tests and benchmarks drive. Installs what is missing where we are root; otherwise says what
# to install and stops, unless BESSEMER_WITHOUT_SLURM=1 says that the real-Slurm tests are to be left out.
set -euo pipefail
PATH=$PATH:/usr/sbin:/sbin

declare -A package=(
    [munged]=munge [slurmctld]=slurmctld [slurmd]=slurmd [sbatch]=slurm-client
    [slurmdbd]=slurmdbd [mariadbd]=mariadb-server
    [chromium]=chromium [shellcheck]=shellcheck [parallel]=parallel
)
needed=(munged slurmctld slurmd sbatch slurmdbd mariadbd)

missing=()
for program in "${!package[@]}"; do
    command -v "$program" >/dev/null || missing+=("${package[$program]}")
done
[ ${#missing[@]} -gt 0 ] || exit 0

if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    echo "packages: installing ${missing[*]}"
    export DEBIAN_FRONTEND=noninteractive
    # The packages' own services are not wanted: the tests start private daemons.
    policy=/usr/sbin/policy-rc.d
    if [ ! -e "$policy" ]; then
        printf '#!/bin/sh\nexit 101\n' >"$policy"
        chmod 755 "$policy"
        trap 'rm -f "$policy"' EXIT
    fi
    log=$(mktemp)
    install() { apt-get install -y -q --no-install-recommends "${missing[@]}" >"$log" 2>&1; }
    install || { apt-get update -q >/dev/null && install; } || { tail -n 20 "$log" >&2; exit 77; }
    rm -f "$log"
    exit 0
fi

echo "packages: not installed here: ${missing[*]}" >&2
for program in "${needed[@]}"; do
    command -v "$program" >/dev/null && continue
    [ "${BESSEMER_WITHOUT_SLURM:-}" = 1 ] && break
    echo "packages: as root: apt-get install --no-install-recommends ${missing[*]}" >&2
    echo "packages: or leave the real-Slurm tests out: BESSEMER_WITHOUT_SLURM=1 make test" >&2
    exit 77
done
