"""Ray nodes of this machine, in a process of their own: `python -m tests.cluster.nodes COUNT`.

It prints the address as a JSON line, then obeys lines on stdin: `kill N` ends a node as a crash would.
"""

from __future__ import annotations

import json
import sys

from ray.cluster_utils import Cluster

CPUS = 2  # of each node: it takes over the replica of one that died
OBJECT_STORE = 80 << 20  # bytes: little is shared, and Ray's default is a third of the memory


def main() -> None:
    options = {"num_cpus": CPUS, "object_store_memory": OBJECT_STORE}
    cluster = Cluster(initialize_head=True, head_node_args={**options, "include_dashboard": False})
    nodes = [cluster.head_node, *(cluster.add_node(**options) for _ in range(int(sys.argv[1]) - 1))]
    try:
        session = cluster.head_node.get_session_dir_path()
        answer({"address": cluster.address, "session": session, "nodes": [each.node_id for each in nodes]})
        for line in sys.stdin:
            verb, _, rest = line.strip().partition(" ")
            if verb == "kill":
                cluster.remove_node(nodes[int(rest)], allow_graceful=False)
            answer({"nodes": [each.node_id for each in nodes]})
    finally:
        cluster.shutdown()


def answer(values: dict[str, object]) -> None:
    sys.__stdout__.write(json.dumps(values) + "\n")
    sys.__stdout__.flush()


if __name__ == "__main__":
    main()
