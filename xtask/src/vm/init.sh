#!/bin/busybox sh
# The first process of the guest: makes it a system in which the tests can run, runs the steps, and says how each ended.
# The kernel's console is the first serial line. What the steps print goes to the second, between lines that begin with ::

/bin/busybox mkdir -p /applets /dev /proc /sys /run/netns /tmp /var
/bin/busybox --install -s /applets
# Real programs come first: busybox has an ip of its own. (Its shell takes its own all the same.)
export PATH=/tests:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/applets
export HOME=/ RUST_BACKTRACE=1 WGRELAY_BIN=/tests/wgrelay
mount -t proc none /proc
mount -t sysfs none /sys
mount -t devtmpfs none /dev
mount -t tmpfs none /run
mount -t bpf none /sys/fs/bpf
ln -s /run /var/run
which modprobe >/proc/sys/kernel/modprobe
# Twice, as a bus has devices of its own once its driver is there.
for _ in 1 2; do
    find /sys/devices -name modalias -exec cat {} + | sort -u | xargs modprobe -qa
done
modprobe -qa tun veth wireguard
ip link set lo up

if grep -q 'guest=shell' /proc/cmdline; then
    cat /steps
    setsid cttyhack sh
    poweroff -f
fi

exec >/dev/ttyS1 2>&1 </dev/null
stty -F /dev/ttyS1 -opost
while read -r name limit command; do
    echo "::begin $name"
    begin=$(cut -d. -f1 /proc/uptime)
    status=0
    timeout -s KILL "$limit" sh -c "$command" </dev/null || status=$?
    echo
    echo "::end $name $status $(($(cut -d. -f1 /proc/uptime) - begin))"
done </steps
echo "::over"
sync
poweroff -f
