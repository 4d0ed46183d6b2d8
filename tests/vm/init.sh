#!/bin/busybox sh
# shellcheck shell=dash
# First process of the initial RAM file system: mounts the host's root read-only, puts what must be writable over it, and
# hands over to guest.py. `run.py` fills in nothing here: all comes by the kernel's command line.
bb=/bin/busybox
$bb mount -t proc proc /proc
$bb mount -t sysfs sys /sys
$bb mount -t devtmpfs dev /dev
value() { for word in $($bb cat /proc/cmdline); do case $word in "$1"=*) echo "${word#*=}" ;; esac; done; }

if [ "$(value vm.probe)" = 1 ]; then
    echo "VM> probe"
    $bb poweroff -f
fi
while read -r module; do
    $bb insmod "/lib/$module" || echo "VM> cannot load $module"
done </lib/order
options=trans=virtio,version=9p2000.L,ro,cache=loose,access=client,msize=512000
$bb mount -t 9p -o "$options" host /root || { echo "VM> the host's root cannot be mounted"; $bb poweroff -f; }
$bb mount -t tmpfs -o mode=1777,size=1500m tmp /root/tmp
$bb mount -t tmpfs -o mode=0755 run /root/run
guest=$(value vm.guest) plan=$(value vm.plan)
for dir in dev proc sys; do $bb mount -o move "/$dir" "/root/$dir"; done
# shellcheck disable=SC2016
exec $bb switch_root /root /bin/sh -c '/usr/bin/python3 -I -B "$1" "$2" </dev/null >/dev/console 2>&1; echo "VM> no end"' \
    sh "$guest" "$plan"
