"""Say hello from every node: mpirun -np 4 python -m rayhpc.start examples/hello.py."""

import ray


@ray.remote(num_cpus=0)
def hello() -> str:
    """A task: it says where it runs."""
    return f"hello from node {ray.get_runtime_context().get_node_id()[:8]} at {ray.util.get_node_ip_address()}"


ray.init(log_to_driver=False)
nodes = [node["NodeID"] for node in ray.nodes() if node["Alive"]]
for line in ray.get([hello.options(label_selector={"ray.io/node-id": node}).remote() for node in nodes]):
    print(line)
