"""A Ray cluster on this machine, whose nodes can be added and killed."""

import contextlib
import time
from concurrent.futures import ThreadPoolExecutor

NODE = {"num_cpus": 1, "object_store_memory": 80 << 20}


@contextlib.contextmanager
def cluster_of_small_nodes():
    """One whose head does no work; Ray is connected to it."""
    import ray
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args=NODE | {"num_cpus": 0, "include_dashboard": False})
    try:
        ray.init(address=cluster.address, log_to_driver=False)
        yield cluster
    finally:
        ray.shutdown()
        cluster.shutdown()


def kill_the_node_at_work(command, reached, look):
    """What a command (a function that gives an exit code) comes to whose only node dies as soon as `reached`, and is replaced; and what
    `look` saw between its death and the new node."""
    with cluster_of_small_nodes() as cluster, ThreadPoolExecutor(1) as driver:
        first = cluster.add_node(**NODE)
        told = driver.submit(command)
        while not reached() and not told.done():
            time.sleep(0.02)
        cluster.remove_node(first, allow_graceful=False)
        seen = look()
        cluster.add_node(**NODE)
        return told.result(timeout=300), seen
