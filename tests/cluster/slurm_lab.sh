#!/bin/bash
# A Slurm of three nodes on this machine, for as long as a command runs:
#   tests/cluster/slurm_lab.sh FOLDER COMMAND ...
# COMMAND finds sbatch, srun, ... on the PATH. Needs root, Debian or Ubuntu, and util-linux
# and iproute2. Nothing is installed: Debian's packages are unpacked in FOLDER. The machine
# keeps its names, ports and processes: all runs in namespaces that end with COMMAND.
set -eu
folder=$(realpath -m "$1")
shift
root=$folder/root run=$folder/run

if [ -z "${SLURM_LAB_INSIDE-}" ]; then
  if [ ! -e "$folder/unpacked" ]; then
    mkdir -p "$folder/packages" "$root"
    (cd "$folder/packages" && apt-get -qq download slurmctld slurmd slurm-client \
      slurm-wlm-basic-plugins munge libmunge2 libhwloc15 libfreeipmi17) >"$folder/apt.log" 2>&1 ||
      { cat "$folder/apt.log" >&2; exit 69; }
    for package in "$folder"/packages/*.deb; do dpkg -x "$package" "$root"; done
    touch "$folder/unpacked"
  fi
  SLURM_LAB_INSIDE=1 exec unshare --mount --net --pid --mount-proc --fork --kill-child \
    "$0" "$folder" "$@"
fi

# Not 127.0.x.y: glibc knows no addresses at all where there are only those.
ip link set lo up
for number in 1 2 3; do ip address add "10.11.0.$number/24" dev lo; done
mkdir -p "$run"/{state,log,munge} "$run"/spool-n{1,2,3}
{
  cat /etc/hosts
  for number in 1 2 3; do echo "10.11.0.$number n$number"; done
} >"$run/hosts"
mount --bind "$run/hosts" /etc/hosts

libraries=$(dirname "$(find "$root/usr/lib" -name slurm-wlm -type d)")
export PATH=$root/usr/bin:$root/usr/sbin:$PATH SLURM_CONF=$run/slurm.conf
export LD_LIBRARY_PATH=$libraries:$libraries/slurm-wlm
chmod 700 "$run/munge"
(umask 077 && head -c 1024 /dev/urandom >"$run/munge/key")
munged --force --key-file="$run/munge/key" --socket="$run/munge/socket" \
  --pid-file="$run/munge/pid" --log-file="$run/munge/log" --seed-file="$run/munge/seed"

# A requeued job waits cred_expire seconds, of which 5 are the least. The nodes have more
# cores than the machine, which config_overrides lets pass.
cat >"$SLURM_CONF" <<END
ClusterName=lab
SlurmctldHost=$(hostname)(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket=$run/munge/socket,cred_expire=5
CredType=cred/munge
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
StateSaveLocation=$run/state
SlurmdSpoolDir=$run/spool-%n
SlurmctldPidFile=$run/slurmctld.pid
SlurmdPidFile=$run/slurmd-%n.pid
SlurmctldLogFile=$run/log/slurmctld.log
SlurmdLogFile=$run/log/slurmd-%n.log
PluginDir=$libraries/slurm-wlm
KillWait=${SLURM_LAB_KILL_WAIT:-60}
SchedulerParameters=sched_interval=2,bf_interval=2
ReturnToService=2
NodeName=n1 NodeHostname=$(hostname) NodeAddr=10.11.0.1 Port=27001 CPUs=4 RealMemory=1000
NodeName=n2 NodeHostname=$(hostname) NodeAddr=10.11.0.2 Port=27002 CPUs=4 RealMemory=1000
NodeName=n3 NodeHostname=$(hostname) NodeAddr=10.11.0.3 Port=27003 CPUs=4 RealMemory=1000
PartitionName=lab Nodes=ALL Default=YES MaxTime=INFINITE State=UP
END
slurmctld-wlm -c -f "$SLURM_CONF"
for name in n1 n2 n3; do
  slurmd-wlm -N "$name" -f "$SLURM_CONF" -d "$root/usr/sbin/slurmstepd-wlm"
done
for _ in $(seq 100); do
  if [ "$(sinfo -h -N -o %t 2>/dev/null | grep -c idle)" = 3 ]; then
    unset SLURM_LAB_INSIDE
    export -p >"$run/environment"
    "$@"  # not exec: the first process of a namespace must collect the others
    exit
  fi
  sleep 0.2
done
sinfo -N >&2
tail -n 20 "$run"/log/*.log >&2
exit 70
