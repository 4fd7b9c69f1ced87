#!/bin/sh
# Two hosts on one machine: network namespaces NAME-a (10.77.0.1) and NAME-b (10.77.0.2),
# joined by a cable. They reach each other and nobody else. Needs root.
#   namespaces.sh up NAME     makes them
#   namespaces.sh cut NAME    pulls the cable out
#   namespaces.sh join NAME   puts it in again
#   namespaces.sh down NAME   removes them
# Commands run inside with `ip netns exec NAME-a COMMAND`.
set -eu
what=$1 name=$2
case $what in
up)
  ip netns add "$name-a"
  ip netns add "$name-b"
  ip link add cable netns "$name-a" type veth peer name cable netns "$name-b"
  host=1
  for side in a b; do
    ip -n "$name-$side" address add "10.77.0.$host/24" dev cable
    ip -n "$name-$side" link set lo up
    ip -n "$name-$side" link set cable up
    host=$((host + 1))
  done
  ;;
cut) ip -n "$name-b" link set cable down ;;
join) ip -n "$name-b" link set cable up ;;
down)
  for side in a b; do
    ip netns del "$name-$side" 2>/dev/null || true
  done
  ;;
*)
  echo "expected up, cut, join or down; found $what" >&2
  exit 2
  ;;
esac
