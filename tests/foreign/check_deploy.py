"""Checks deploy/: manifests against the schemas of Kubernetes, command lines against the binary.

usage: check_deploy.py PDLAB FILE...
"""

import subprocess
import sys

import kubernetes_validate
import yaml

pdlab, *files = sys.argv[1:]
seen = set()
for file in files:
    with open(file) as text:
        documents = list(yaml.safe_load_all(text))
    assert documents, f"{file} is empty"
    for document in documents:
        if "kind" not in document:  # a file of Prometheus
            seen.add(next(iter(document)))
            continue
        kubernetes_validate.validate(document, "1.33", strict=True)
        seen.add(document["kind"])
        if "template" not in document["spec"]:
            continue
        template = document["spec"]["template"]
        labels = template["metadata"]["labels"]
        assert document["spec"]["selector"]["matchLabels"].items() <= labels.items(), file
        for container in template["spec"]["containers"]:
            # Options are read in order: --help at the end is reached if all before it are known.
            args = [arg.replace("$(POD_IP)", "10.0.0.1") for arg in container["args"]]
            done = subprocess.run([pdlab, *args, "--help"], capture_output=True, text=True)
            assert done.returncode == 0, f"{file}: {done.stderr}"
assert {"Service", "StatefulSet", "Deployment", "global", "groups"} <= seen, seen
