#!/usr/bin/env bash
# A SLURM of one node on this machine, for tests: no container, no database. Run as root.
#   apt-get install -y --no-install-recommends slurm-wlm munge
#   tests/helpers/slurm_one_node.sh start DIR [CPUS]    # then export SLURM_CONF=DIR/slurm.conf; sbatch, squeue, scancel work
#   tests/helpers/slurm_one_node.sh stop DIR
set -eu
command=$1 dir=$(realpath -m "$2") cpus=${3:-$(nproc)} host=$(hostname -s)
case $command in
start)
  mkdir -p "$dir"/state "$dir"/spool "$dir"/log "$dir"/run
  cat > "$dir/slurm.conf" <<CONF
ClusterName=one
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=16817
SlurmdPort=16818
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket=$dir/run/munge.sock
StateSaveLocation=$dir/state
SlurmdSpoolDir=$dir/spool
SlurmctldPidFile=$dir/run/slurmctld.pid
SlurmdPidFile=$dir/run/slurmd.pid
SlurmctldLogFile=$dir/log/slurmctld.log
SlurmdLogFile=$dir/log/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
ReturnToService=2
MpiDefault=none
KillWait=20
SchedulerParameters=sched_interval=2,batch_sched_delay=1
NodeName=$host NodeAddr=127.0.0.1 CPUs=$cpus RealMemory=2000 State=UNKNOWN
PartitionName=cpu Nodes=$host Default=YES MaxTime=INFINITE State=UP
CONF
  head -c 1024 /dev/urandom > "$dir/munge.key"
  chmod 400 "$dir/munge.key"
  /usr/sbin/munged --force --key-file="$dir/munge.key" --socket="$dir/run/munge.sock" --pid-file="$dir/run/munged.pid" \
    --log-file="$dir/log/munged.log" --seed-file="$dir/run/seed"
  while ! [ -S "$dir/run/munge.sock" ]; do sleep 0.2; done
  export SLURM_CONF="$dir/slurm.conf"
  /usr/sbin/slurmctld -f "$SLURM_CONF"
  /usr/sbin/slurmd -f "$SLURM_CONF"
  ;;
stop)
  # what still runs would outlive the daemons
  export SLURM_CONF="$dir/slurm.conf"
  timeout 10 scancel --me || true
  for _ in $(seq 30); do
    [ -n "$(timeout 10 squeue --noheader)" ] || break
    sleep 1
  done
  for daemon in slurmctld slurmd munged; do
    if [ -f "$dir/run/$daemon.pid" ]; then kill "$(cat "$dir/run/$daemon.pid")" || true; fi
  done
  ;;
*)
  echo "usage: $0 start|stop DIR [CPUS]" >&2
  exit 2
  ;;
esac
