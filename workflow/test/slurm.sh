#!/usr/bin/env bash
# killed.sh on its own Slurm cluster: one controller and two nodes, on this machine.
#
#   workflow/test/slurm.sh FOLDER
#
# Needs Debian's slurm-wlm and munge, snakemake-executor-plugin-slurm, and root, as slurmd does.
set -euo pipefail
work=${1:?name an empty folder}
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$work"
work=$(cd "$work" && pwd)
cluster=$work/cluster
mkdir -p "$cluster"/{state,spool-node1,spool-node2}
PATH=$PATH:/usr/sbin

# munge insists on folders that no other user can write to, which rules out this one.
run=$(mktemp -d)
chmod 755 "$run"
dd if=/dev/urandom of="$run/key" bs=128 count=1 status=none
chmod 600 "$run/key"
cat > "$cluster/slurm.conf" <<CONF
ClusterName=zoo
SlurmctldHost=$(hostname -s)(127.0.0.1)
SlurmctldPort=16817
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket=$run/socket
CredType=cred/munge
StateSaveLocation=$cluster/state
SlurmdSpoolDir=$cluster/spool-%n
SlurmctldPidFile=$cluster/slurmctld.pid
SlurmdPidFile=$cluster/slurmd-%n.pid
SlurmctldLogFile=$cluster/slurmctld.log
SlurmdLogFile=$cluster/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SlurmdParameters=config_overrides
# Finished jobs stay visible for longer than Snakemake takes to ask.
MinJobAge=3600
SchedulerParameters=sched_interval=2
NodeName=node[1-2] NodeAddr=127.0.0.1 NodeHostname=$(hostname -s) Port=[17001-17002] CPUs=4 RealMemory=10000
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
CONF
export SLURM_CONF=$cluster/slurm.conf
# Snakemake hides SLURM_CONF from its jobs; this is where their srun looks instead.
conf=/run/slurm/conf
[ ! -e $conf ] || { echo "$conf exists: another cluster uses this machine"; exit 1; }
mkdir -p /run/slurm
ln -s "$cluster" $conf
stop() {
    rm -f $conf
    [ -z "$(jobs -p)" ] || kill $(jobs -p) 2>/dev/null || true
    wait || true
    rm -rf "$run"
}
trap stop EXIT
munged --foreground --key-file="$run/key" --socket="$run/socket" --pid-file="$run/pid" --seed-file="$run/seed" \
    --log-file="$cluster/munged.log" &
until [ -S "$run/socket" ]; do sleep 0.1; done
slurmctld -D > /dev/null 2>&1 &
slurmd -D -N node1 > /dev/null 2>&1 &
slurmd -D -N node2 > /dev/null 2>&1 &
for _ in $(seq 100); do
    [ "$(sinfo -h -o %D -t idle 2>/dev/null)" = 2 ] && break
    sleep 0.3
done
sinfo

"$here/killed.sh" "$work/zoo" slurm --set-resources data:mem_mb=4000 \
    --slurm-no-account --slurm-status-command squeue \
    --slurm-init-seconds-before-status-checks 3 --seconds-between-status-checks 3 --latency-wait 20
for node in node1 node2; do
    echo "$node ran $(grep -c 'launch task' "$cluster/slurmd-$node.log") steps"
    grep -q 'launch task' "$cluster/slurmd-$node.log"
done
