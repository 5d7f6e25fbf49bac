#!/usr/bin/env bash
# A Slurm cluster of several nodes on this machine, for the tests of slurm/*.sbatch: munged, slurmctld and one slurmd for
# each node, started by hand as root, with a configuration, a key, ports and a folder of their own. A Slurm that the
# machine is part of is not touched, and neither is another cluster that this script has started.
#   cluster.sh start LINK [NODES]   starts node1 ... nodeN (4) of two CPUs each; LINK will point to the cluster's folder
#   cluster.sh stop LINK            ends all jobs, then what start has started, and removes the folder and LINK
#   cluster.sh require              says whether a cluster can be started here
# With SLURM_CONF=LINK/slurm.conf, sbatch, squeue, scontrol and scancel speak to this cluster.
# Exit code 77: Slurm is not installed, or this is not root.
set -euo pipefail

cpus_of_node=2
memory_of_node=16000  # that Slurm gives away, in MB, whatever the machine has

skip() { echo "skipped: $*"; exit 77; }

require_slurm_and_root() {
  local command missing=()
  for command in munged munge slurmctld slurmd sbatch srun scontrol; do
    command -v "$command" >/dev/null || missing+=("$command")
  done
  [[ ${#missing[@]} -eq 0 ]] || skip "Slurm is not installed: no ${missing[*]} (Debian: apt-get install slurm-wlm munge)"
  [[ $EUID -eq 0 ]] || skip "a cluster can be started by root alone"
}

# Debian's daemons are where only root's PATH leads.
PATH=$PATH:/usr/sbin:/sbin

nodes() { seq -f 'node%g' 1 "$1"; }

# Ports that nobody listens on, below those that the system gives out by itself.
free_ports() {
  local port found=0
  while [[ $found -lt $1 ]]; do
    port=$((20000 + RANDOM % 12000))
    if (: <"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then continue; fi
    echo "$port"
    found=$((found + 1))
  done
}

# What differs from a real cluster's configuration makes a test short (a requeued job starts again when the credentials of
# its last run have expired, after ten seconds instead of two minutes; SIGKILL follows SIGTERM after ten) or possible in a
# container (processes are found through /proc instead of cgroups, CPUs and memory may be more than the machine has).
write_configuration() {
  local folder=$1 host ports node k=0
  host=$(hostname -s)
  mapfile -t ports < <(free_ports $((1 + $2)))
  {
    cat <<CONFIGURATION
ClusterName=hessian_mpi_tests
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=${ports[0]}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket=$folder/munge.socket,cred_expire=10
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/%n
TmpFS=$folder/%n/tmp
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/%n.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdLogFile=$folder/%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
SchedulerParameters=requeue_delay=0,batch_sched_delay=0,sched_interval=1,sched_min_interval=0,bf_interval=2
KillWait=10
MpiDefault=none
ReturnToService=0
CONFIGURATION
    for node in $(nodes "$2"); do
      k=$((k + 1))
      echo "NodeName=$node NodeHostname=$host NodeAddr=127.0.0.1 Port=${ports[$k]} Sockets=1" \
        "CoresPerSocket=$cpus_of_node ThreadsPerCore=1 RealMemory=$memory_of_node"
    done
    echo "PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP"
  } >"$folder/slurm.conf"
  echo "IgnoreSystemd=yes" >"$folder/cgroup.conf"
}

# Starts a daemon that outlives this script and holds none of its pipes; its name and process id go to LINK/daemons.
start_daemon() {
  local folder=$1 name=$2
  shift 2
  setsid "$@" </dev/null >>"$folder/$name.out" 2>&1 &
  echo "$!" >>"$folder/daemons"
}

within() {
  local seconds=$1 end
  shift
  end=$((SECONDS + seconds))
  until "$@" >/dev/null 2>&1; do
    [[ $SECONDS -lt $end ]] || return 1
    sleep 0.2
  done
}

all_idle() { [[ $(sinfo -h -N -o %t | grep -cx idle) -eq $1 ]]; }

give_up() {
  echo "cluster.sh: $2"
  tail -n 30 "$1"/*.out "$1"/*.log
  exit 1
} >&2

start() {
  local link=$1 count=$2 folder node
  require_slurm_and_root
  stop "$link"
  # Short, since the names of sockets must be.
  folder=$(mktemp -d /tmp/hessian_mpi_slurm.XXXXXX)
  ln -sfn "$folder" "$link"
  chmod 755 "$folder"
  mkdir "$folder/state"
  for node in $(nodes "$count"); do mkdir -p "$folder/$node/tmp"; done
  (umask 077 && head -c 1024 /dev/urandom >"$folder/munge.key")
  write_configuration "$folder" "$count"
  export SLURM_CONF=$folder/slurm.conf

  # --force: a socket below /tmp, where others may write, is what munged warns of.
  start_daemon "$folder" munged munged --foreground --force --key-file="$folder/munge.key" \
    --socket="$folder/munge.socket" --pid-file="$folder/munged.pid" --seed-file="$folder/munge.seed" \
    --log-file="$folder/munged.log"
  within 20 munge -n --socket="$folder/munge.socket" || give_up "$folder" "munged does not answer"
  start_daemon "$folder" slurmctld slurmctld -D -c
  for node in $(nodes "$count"); do start_daemon "$folder" "slurmd.$node" slurmd -D -N "$node"; done
  within 60 all_idle "$count" || give_up "$folder" "not all nodes are up: $(sinfo -N -o '%N %t' | tr '\n' ' ')"
  sinfo -N -o '%N %t %c CPUs'
}

# A process id may by now be another program's.
is_ours() { [[ -e /proc/$1 ]] && tr '\0' '\n' <"/proc/$1/environ" | grep -qxF "SLURM_CONF=$2/slurm.conf"; }
has_ended() { ! is_ours "$@"; }
no_jobs() { [[ -z $(squeue -h) ]]; }

stop() {
  local link=$1 folder pid
  folder=$(readlink -f "$link") && [[ -s $folder/daemons ]] || return 0
  export SLURM_CONF=$folder/slurm.conf
  if timeout 10 scontrol ping >/dev/null 2>&1; then
    timeout 10 scancel --state=PENDING --user=root || true
    timeout 10 scancel --user=root || true
    within 40 no_jobs || true
  fi
  for pid in $(tac "$folder/daemons"); do
    if ! is_ours "$pid" "$folder"; then continue; fi
    kill "$pid"
    within 10 has_ended "$pid" "$folder" || kill -KILL "$pid"
  done
  rm -rf "$folder" "$link"
}

case ${1:-} in
  start) start "${2:?LINK is missing}" "${3:-4}" ;;
  stop) stop "${2:?LINK is missing}" ;;
  require) require_slurm_and_root ;;
  *) sed -n '2,10s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
esac
