#!/usr/bin/env bash
# Starts a Slurm of one node, this machine, and runs the tests of shards that need one. It keeps no
# accounts: the harder case. Needs slurmctld, slurmd and munge (Debian's packages). Without them it
# says so and passes, unless REQUIRE=1.
set -euo pipefail
cd "$(dirname "$0")/.."

missing=""
for tool in slurmctld slurmd munged mungekey sbatch sinfo; do
  PATH="$PATH:/usr/sbin:/sbin" command -v "$tool" > /dev/null || missing+=" $tool"
done
if [[ -n $missing ]]; then
  echo "SKIPPED slurm: not installed:$missing (apt-get install slurmctld slurmd slurm-client munge)"
  exit "${REQUIRE:-0}"
fi
PATH="$PATH:/usr/sbin:/sbin"

folder=$(mktemp -d)
pids=()
stop() {
  for pid in "${pids[@]}"; do kill "$pid" 2> /dev/null || true; done
  wait 2> /dev/null || true
  rm -rf "$folder"
}
trap stop EXIT
mkdir "$folder/state" "$folder/spool"
chmod 711 "$folder" # munge's clients must reach its socket
mungekey --create --keyfile "$folder/key"
munged --foreground --force --key-file "$folder/key" --socket "$folder/munge" \
  --pid-file "$folder/munge.pid" --log-file "$folder/munge.log" --seed-file "$folder/seed" 2> /dev/null &
pids+=($!)

read -r controller node < <(python3 -c '
import socket
with socket.create_server(("", 0)) as a, socket.create_server(("", 0)) as b:
    print(a.getsockname()[1], b.getsockname()[1])')
export SLURM_CONF="$folder/slurm.conf"
cat > "$SLURM_CONF" << CONF
ClusterName=test
SlurmctldHost=$(hostname -s)(127.0.0.1)
SlurmctldPort=$controller
SlurmdPort=$node
SlurmUser=$(id -un)
SlurmdUser=$(id -un)
AuthType=auth/munge
AuthInfo=socket=$folder/munge
CredType=cred/munge
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdLogFile=$folder/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
MpiDefault=none
ReturnToService=2
NodeName=$(hostname -s) NodeAddr=127.0.0.1 CPUs=$(nproc) State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
CONF
slurmctld -D -i 2> /dev/null &
pids+=($!)
slurmd -D 2> /dev/null &
pids+=($!)
for _ in {1..100}; do
  [[ $(sinfo --noheader --format=%T 2> /dev/null) == idle ]] && break
  sleep 0.3
done
sinfo || { tail -n 20 "$folder"/*.log; exit 1; }
ATTENDRITE_TEST_SLURM=1 .venv/bin/pytest -q tests/test_shards.py -k real_slurm "$@"
