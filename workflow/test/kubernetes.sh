#!/usr/bin/env bash
# killed.sh through the Kubernetes profile. No cluster: its own kubectl checks every Job against
# the published model of the API and runs its command on this machine.
#
#   workflow/test/kubernetes.sh FOLDER
#
# Needs snakemake-executor-plugin-cluster-generic and the Python package kubernetes.
set -euo pipefail
work=${1:?name an empty folder}
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$work/bin" "$work/jobs"
work=$(cd "$work" && pwd)
cat > "$work/bin/kubectl" <<'PYTHON'
#!/usr/bin/env python3
import json, os, pathlib, subprocess, sys
from kubernetes import client

jobs = pathlib.Path(os.environ["ZOO_MOUNT"]) / "jobs"
match sys.argv[1:]:
    case ["create", "-f", "-"]:
        text = sys.stdin.read()
        job = client.ApiClient().deserialize(text, "V1Job", "application/json")
        assert client.ApiClient().sanitize_for_serialization(job) == json.loads(text), "unknown fields"
        container = job.spec.template.spec.containers[0]
        code = jobs / job.metadata.name
        code.write_text("")
        script = '"$@"; echo $? > "$0.part"; mv "$0.part" "$0"'
        subprocess.Popen(["sh", "-c", script, code, *container.command], cwd=container.working_dir, stdin=subprocess.DEVNULL,
                         stdout=subprocess.DEVNULL, stderr=(jobs / "errors").open("a"), start_new_session=True)
    case ["get", "job", name, "-o", "json"]:
        code = (jobs / name).read_text().strip()
        condition = {"type": "Complete" if code == "0" else "Failed", "status": "True"}
        print(json.dumps({"status": {"conditions": [condition] if code else []}}))
    case other:
        sys.exit(f"unknown command {other}")
PYTHON
chmod +x "$work/bin/kubectl"
export ZOO_IMAGE=zoo:latest ZOO_CLAIM=zoos ZOO_MOUNT=$work
PATH=$work/bin:$here/../profiles/kubernetes:$PATH "$here/killed.sh" "$work/zoo" kubernetes \
    --jobs 4 --seconds-between-status-checks 1 --latency-wait 20
echo "$(ls "$work/jobs" | grep -c '^zoo-') Kubernetes Jobs"
