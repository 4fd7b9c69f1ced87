#!/bin/sh
# Pods on this machine, for as long as a command runs:
#   tests/cluster/pods.sh FOLDER NAME,NAME,... COMMAND ...
# Each pod has an address, which its name resolves to in all of them; FOLDER is mounted at
# /mnt. A container is started with `ip netns exec NAME`. Needs root, util-linux, iproute2.
set -eu
if [ -z "${PODS_INSIDE-}" ]; then
  PODS_INSIDE=1 exec unshare --mount --net --pid --mount-proc --fork --kill-child "$0" "$@"
fi
unset PODS_INSIDE
folder=$1 names=$2
shift 2
mkdir -p "$folder"
mount --bind "$folder" /mnt
mount -t tmpfs none /run # ip keeps its names there
cp /etc/hosts /run/hosts
ip link add pods type bridge
ip link set pods up
host=1
for name in $(echo "$names" | tr , ' '); do
  ip netns add "$name"
  ip link add "v$host" type veth peer name eth0 netns "$name"
  ip link set "v$host" master pods up
  ip -n "$name" link set lo up
  ip -n "$name" address add "10.78.0.$host/24" dev eth0
  ip -n "$name" link set eth0 up
  echo "10.78.0.$host $name" >>/run/hosts
  host=$((host + 1))
done
mount --bind /run/hosts /etc/hosts
"$@"
