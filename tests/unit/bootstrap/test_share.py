"""A host's CPUs, GPUs and memory, divided among its ranks; the warnings about what was found."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayhpc.bootstrap import share
from rayhpc.errors import ExitCode, RayhpcError
from rayhpc.host import gpu_variables
from rayhpc.host.gpus import find as find_gpus
from rayhpc.model import Gpus, NodeSpec, RankResources
from rayhpc.options import OBJECT_STORE_MINIMUM, Options
from rayhpc.processes import environment
from tests.unit.making import GIB, assignment, cluster, rank_resources

RUN = "20261121-094408-01234567"


def divided(ranks: Sequence[RankResources], **options: Any) -> tuple[NodeSpec, ...]:
    return share.divide(ranks, Options(**options), RUN)


def cpus(ranks: Sequence[RankResources], **options: Any) -> list[int]:
    return [node.cpus for node in divided(ranks, **options)]


def gpu_ids(ranks: Sequence[RankResources], **options: Any) -> list[tuple[str, ...]]:
    return [node.gpus.ids for node in divided(ranks, **options)]


def alike(count: int, **changes: Any) -> list[RankResources]:
    return [rank_resources(rank, **changes) for rank in range(count)]


def bound(*masks: range, **changes: Any) -> list[RankResources]:
    return [rank_resources(rank, cpus=frozenset(mask), **changes) for rank, mask in enumerate(masks)]


def with_gpus(*lists: str, variable: str = "CUDA_VISIBLE_DEVICES") -> list[RankResources]:
    return [rank_resources(rank, gpus=Gpus(variable, tuple(ids.split()))) for rank, ids in enumerate(lists)]


@pytest.mark.parametrize(
    ("ranks", "expected"),
    [
        (alike(1), [8]),
        (alike(4), [2, 2, 2, 2]),
        (alike(3), [3, 3, 2]),
        (alike(12), [1] * 12),  # more ranks than CPUs: one each
        (bound(range(4), range(4, 8)), [4, 4]),
        (bound(range(1), range(1, 8)), [1, 7]),  # unequal, but each its own
        (bound(range(4), range(2, 6)), [3, 3]),  # overlapping: the union is shared out
        (bound(range(1), range(1)), [1, 1]),  # both on one core, as Open MPI binds with --oversubscribe
        (alike(2, cpu_limit=3), [2, 1]),
        (alike(2, cpu_limit=1), [1, 1]),
        (alike(2, cpu_limit=100), [4, 4]),
        (bound(range(4), range(4, 8), cpu_limit=2), [1, 1]),  # the quota counts for bound ranks as well
        ([rank_resources(0, cpu_limit=6), rank_resources(1, cpu_limit=4)], [2, 2]),
    ],
)
def test_cpus(ranks: list[RankResources], expected: list[int]) -> None:
    assert cpus(ranks) == expected


@pytest.mark.parametrize(
    ("ranks", "expected"),
    [
        (with_gpus("0 1 2 3"), [("0", "1", "2", "3")]),
        (with_gpus("0 1 2 3", "0 1 2 3"), [("0", "1"), ("2", "3")]),
        (with_gpus("0 1 2", "0 1 2"), [("0", "1"), ("2",)]),
        (with_gpus("0", "0", "0"), [("0",), (), ()]),
        (with_gpus("0 1", "2 3"), [("0", "1"), ("2", "3")]),
        (with_gpus("3", "0 1 2"), [("3",), ("0", "1", "2")]),
        (with_gpus("", ""), [(), ()]),
        (with_gpus("GPU-4a1 GPU-9c2", "GPU-4a1 GPU-9c2"), [("GPU-4a1",), ("GPU-9c2",)]),
        (with_gpus("MIG-1/0 MIG-1/1", "MIG-1/0 MIG-1/1"), [("MIG-1/0",), ("MIG-1/1",)]),
        (with_gpus("GPU-4a1", "MIG-9/0"), [("GPU-4a1",), ("MIG-9/0",)]),
        (with_gpus("0 1", "1 2"), [("0", "1"), ("2",)]),
    ],
)
def test_gpus(ranks: list[RankResources], expected: list[tuple[str, ...]]) -> None:
    assert gpu_ids(ranks) == expected


def test_the_vendors_variable_is_kept() -> None:
    nodes = divided(with_gpus("0 1", "0 1", variable="ZE_AFFINITY_MASK"))
    assert [node.gpus for node in nodes] == [Gpus("ZE_AFFINITY_MASK", ("0",)), Gpus("ZE_AFFINITY_MASK", ("1",))]


# Equal ids on two ranks need not be one GPU: a wrapper gives each rank its own by ROCR_VISIBLE_DEVICES (as LUMI's and
# Frontier's manuals say), within which HIP counts from 0; a task that Slurm has bound sees its own GPUs alone, from 0
# where the site's cgroups show it no others.
@pytest.mark.parametrize(
    "environs",
    [
        [{"ROCR_VISIBLE_DEVICES": str(rank)} for rank in range(4)],
        [{"CUDA_VISIBLE_DEVICES": "0", "SLURM_GPUS_PER_TASK": "1", "SLURM_LOCALID": str(rank)} for rank in range(4)],
        [{"CUDA_VISIBLE_DEVICES": "0", "SLURM_STEP_GPUS": str(rank)} for rank in range(4)],
        [{"ROCR_VISIBLE_DEVICES": "0", "SLURM_STEP_GPUS": str(rank)} for rank in range(4)],
    ],
    ids=["ROCR", "gpus-per-task", "gpu-bind=single:1", "gpu-bind=single:1 on AMD"],
)
def test_ranks_with_a_gpu_each_keep_it(environs: list[dict[str, str]]) -> None:
    assert [len(ids) for ids in gpu_ids(seeing(environs))] == [1, 1, 1, 1]


def seeing(environs: Sequence[dict[str, str]]) -> list[RankResources]:
    """Ranks of one host that have found their GPUs in these environments."""
    mended = [{**environ, **gpu_variables.for_ray(environ)} for environ in environs]
    return [rank_resources(rank, gpus=find_gpus(environ)) for rank, environ in enumerate(mended)]


# Sites advise --gpu-bind=none for the sake of NCCL: every task sees all GPUs, though SLURM_GPUS_PER_TASK may be set.
@pytest.mark.parametrize("granted", [{"SLURM_GPUS_PER_TASK": "1"}, {"SLURM_GPUS_PER_TASK": "a100:1"},
                                     {"SLURM_STEP_GPUS": "4,5,6,7"}])  # fmt: skip
def test_unbound_gpus_are_given_out_once(granted: dict[str, str]) -> None:
    common = {"CUDA_VISIBLE_DEVICES": "0,1,2,3", **granted}
    ranks = seeing([{**common, "SLURM_LOCALID": str(rank)} for rank in range(4)])
    assert gpu_ids(ranks) == [("0",), ("1",), ("2",), ("3",)]


TILES = [str(tile) for tile in range(12)]
NAMED_TILES = [f"{gpu}.{tile}" for gpu in range(6) for tile in range(2)]


@pytest.mark.parametrize(
    ("environ", "ranks", "expected"),
    [
        ({"ZE_AFFINITY_MASK": ",".join(TILES)}, 12, [(tile,) for tile in TILES]),
        ({"ZE_AFFINITY_MASK": ",".join(TILES)}, 6, [(str(2 * gpu), str(2 * gpu + 1)) for gpu in range(6)]),
        ({"ZE_AFFINITY_MASK": ",".join(NAMED_TILES)}, 12, [(tile,) for tile in NAMED_TILES]),
        ({"ZE_AFFINITY_MASK": ",".join(NAMED_TILES)}, 6, [(f"{gpu}.0", f"{gpu}.1") for gpu in range(6)]),
        ({"ZE_AFFINITY_MASK": "0,1,2,3,4,5"}, 6, [(str(gpu),) for gpu in range(6)]),
        ({"ROCR_VISIBLE_DEVICES": "0,1,2,3,4,5,6,7"}, 8, [(str(die),) for die in range(8)]),
        ({"ROCR_VISIBLE_DEVICES": "0,1,2,3,4,5,6,7"}, 2, [tuple("0123"), tuple("4567")]),
    ],
    ids=["Aurora, flat", "flat, a GPU each", "composite", "composite, a GPU each", "GPUs", "Frontier", "two ranks"],
)
def test_the_gpus_of_great_machines(environ: dict[str, str], ranks: int, expected: list[tuple[str, ...]]) -> None:
    assert gpu_ids(seeing([environ] * ranks)) == expected


@pytest.mark.parametrize(
    "environs",
    [
        [{"ZE_AFFINITY_MASK": tile} for tile in NAMED_TILES],  # gpu_tile_compact.sh of Aurora
        [{"ZE_AFFINITY_MASK": tile, "ZE_FLAT_DEVICE_HIERARCHY": "FLAT"} for tile in TILES],
        [{"ROCR_VISIBLE_DEVICES": str(die)} for die in (4, 5, 2, 3, 6, 7, 0, 1)],  # --gpu-bind=closest of Frontier
    ],
    ids=["tiles by name", "tiles by number", "dies"],
)
def test_ranks_that_are_bound_to_a_tile_or_a_die_keep_it(environs: list[dict[str, str]]) -> None:
    assert [len(ids) for ids in gpu_ids(seeing(environs))] == [1] * len(environs)


def test_all_variables_are_divided_alike() -> None:
    """Slurm without AutoDetect sets one for each vendor."""
    names = ("CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "ZE_AFFINITY_MASK")
    nodes = divided(seeing([dict.fromkeys(names, "4,5,6,7")] * 2))
    own = assignment(cluster(nodes), 1)
    seen = environment.of_daemons(dict.fromkeys((*names, "HIP_VISIBLE_DEVICES"), "4,5,6,7"), own, nodes[1])
    assert {name: seen[name] for name in (*names, "HIP_VISIBLE_DEVICES")} == {
        "CUDA_VISIBLE_DEVICES": "6,7",
        "ROCR_VISIBLE_DEVICES": "4,5,6,7",  # HIP counts within it
        "HIP_VISIBLE_DEVICES": "2,3",
        "ZE_AFFINITY_MASK": "6,7",
    }


def test_num_gpus_holds_for_all_variables() -> None:
    (node,) = divided(seeing([{"CUDA_VISIBLE_DEVICES": "4,5", "ZE_AFFINITY_MASK": "6,7"}]), num_gpus=1)
    assert [entry.ids for entry in node.gpus.all_variables] == [("4",), ("6",)]


# Ray does not empty the variable for tasks without GPUs (ray#54868).
def test_a_node_without_a_gpu_sees_none() -> None:
    nodes = divided(with_gpus("0", "0"))
    assigned = assignment(cluster(nodes), 1)
    environ = environment.of_daemons({"CUDA_VISIBLE_DEVICES": "0"}, assigned, nodes[1])
    assert environ["CUDA_VISIBLE_DEVICES"] == ""


@pytest.mark.parametrize(
    ("number", "expected"), [(None, ("0", "1", "2", "3")), (0, ()), (1, ("0",)), (4, ("0", "1", "2", "3"))]
)
def test_num_gpus_takes_the_first(number: int | None, expected: tuple[str, ...]) -> None:
    assert gpu_ids(with_gpus("0 1 2 3"), num_gpus=number) == [expected]


def test_num_gpus_where_none_is_seen_makes_ids_up() -> None:
    assert gpu_ids(with_gpus(""), num_gpus=2) == [("0", "1")]


def test_more_gpus_than_there_are_is_refused_with_the_list() -> None:
    with pytest.raises(RayhpcError, match="--num-gpus 3, but rank 0 on a has 2") as caught:
        divided(with_gpus("0 1"), num_gpus=3)
    assert caught.value.fault.code == ExitCode.CONFIGURATION
    assert caught.value.fault.evidence == ("CUDA_VISIBLE_DEVICES=0,1",)


def test_memory_is_shared_out_with_a_margin() -> None:
    first, second = divided(alike(2, memory=100 * GIB, shm=100 * GIB))
    assert first.memory == second.memory
    assert first.object_store == pytest.approx(0.3 * 45 * GIB, rel=1e-6)
    assert first.memory + first.object_store == pytest.approx(45 * GIB, rel=1e-6)


def test_a_small_shm_limits_the_object_store() -> None:
    nodes = divided(alike(2, memory=100 * GIB, shm=4 * GIB))
    assert sum(node.object_store for node in nodes) <= 4 * GIB


def test_the_object_store_is_never_less_than_ray_accepts() -> None:
    (node,) = divided([rank_resources(memory=64 * 2**20, shm=0)])
    assert node.object_store >= 75 * 2**20
    assert node.memory > 0


def test_the_ranks_that_see_least_memory_decide() -> None:
    nodes = divided([rank_resources(0, memory=64 * GIB), rank_resources(1, memory=8 * GIB)])
    assert sum(node.memory + node.object_store for node in nodes) <= 8 * GIB


def test_the_users_figures_win() -> None:
    (node,) = divided([rank_resources()], num_cpus=3, memory="5G", object_store_memory="2G")
    assert (node.cpus, node.memory, node.object_store) == (3, 5 * GIB, 2 * GIB)


def test_a_head_without_cpus_is_possible() -> None:
    assert cpus(alike(2), num_cpus=0) == [0, 0]


def test_one_per_host_gives_the_first_rank_of_each_host_all() -> None:
    ranks = [
        rank_resources(
            rank, host, cpus=frozenset(range(rank % 2 * 4, rank % 2 * 4 + 4)), gpus=Gpus(ids=(str(rank % 2),))
        )
        for rank, host in enumerate(["a", "a", "b", "b"])
    ]
    nodes = divided(ranks, one_per_host=True)
    assert [(node.rank, node.host, node.cpus, node.gpus.ids) for node in nodes] == [
        (0, "a", 8, ("0", "1")),
        (2, "b", 8, ("0", "1")),
    ]


def test_hosts_are_divided_separately_even_with_ranks_dealt_in_turn() -> None:
    ranks = [rank_resources(rank, host) for rank, host in enumerate(["a", "b", "a", "b", "a"])]
    nodes = divided(ranks)
    assert [(node.rank, node.host, node.cpus) for node in nodes] == [
        (0, "a", 3), (1, "b", 4), (2, "a", 3), (3, "b", 4), (4, "a", 2),
    ]  # fmt: skip


def test_equal_names_are_not_yet_one_host() -> None:
    ranks = [rank_resources(rank, "node", host_id=f"node/boot{rank}") for rank in range(2)]
    assert cpus(ranks) == [8, 8]


def test_each_rank_has_its_own_directory_of_this_run() -> None:
    assert [node.temp_dir for node in divided(alike(2, temp_base="/scratch"))] == [
        "/scratch/rh-01234567-0",
        "/scratch/rh-01234567-1",
    ]


MASKS = st.frozensets(st.integers(0, 15), min_size=1, max_size=16)
GPU_IDS = st.lists(st.sampled_from([str(n) for n in range(8)]), unique=True, max_size=8).map(tuple)


@st.composite
def hosts(draw: st.DrawFn) -> list[RankResources]:
    """Ranks on up to three hosts, each with any mask, quota, GPUs and memory."""
    names = draw(st.lists(st.sampled_from("abc"), min_size=1, max_size=8))
    return [
        rank_resources(
            rank,
            name,
            cpus=draw(MASKS),
            cpu_limit=draw(st.none() | st.integers(1, 32)),
            gpus=Gpus(ids=draw(GPU_IDS)),
            memory=draw(st.integers(0, 2**40)),
            shm=draw(st.integers(0, 2**40)),
        )
        for rank, name in enumerate(names)
    ]


def by_host(
    nodes: Sequence[NodeSpec], ranks: Sequence[RankResources]
) -> list[tuple[list[NodeSpec], list[RankResources]]]:
    names = sorted({entry.host for entry in ranks})
    return [([n for n in nodes if n.host == name], [r for r in ranks if r.host == name]) for name in names]


@given(hosts(), st.booleans())
def test_no_host_gives_more_than_it_has(ranks: list[RankResources], one_per_host: bool) -> None:
    for nodes, on_host in by_host(divided(ranks, one_per_host=one_per_host), ranks):
        assert len(nodes) == (1 if one_per_host else len(on_host))
        shares = [node.cpus for node in nodes]
        assert min(shares) >= 1
        assert sum(shares) <= share.host_cpus(on_host) or set(shares) == {1}
        given_out = [gpu for node in nodes for gpu in node.gpus.ids]
        assert len(given_out) == len(set(given_out))
        assert set(given_out) == {gpu for entry in on_host for gpu in entry.gpus.ids}
        memory, shm = min(entry.memory for entry in on_host), min(entry.shm for entry in on_host)
        assert sum(node.memory + node.object_store for node in nodes) <= memory or any(
            share.OBJECT_STORE_MINIMUM in (node.memory, node.object_store) for node in nodes
        )
        assert sum(node.object_store for node in nodes) <= shm or any(
            node.object_store == share.OBJECT_STORE_MINIMUM for node in nodes
        )


@given(hosts())
def test_nodes_are_in_the_order_of_ranks(ranks: list[RankResources]) -> None:
    assert [node.rank for node in divided(ranks)] == [entry.rank for entry in ranks]


@given(st.integers(1, 64), st.integers(1, 64))
def test_equal_masks_are_shared_out_evenly(total: int, count: int) -> None:
    shares = cpus(alike(count, cpus=frozenset(range(total))))
    assert max(shares) - min(shares) <= 1
    assert shares == sorted(shares, reverse=True)
    assert sum(shares) == max(total, count)


# Warnings.


def told(ranks: Sequence[RankResources], **options: Any) -> list[str]:
    chosen = Options(**options)
    return share.warnings(ranks, share.divide(ranks, chosen, "20261121-094408-01234567"), chosen)


@pytest.mark.parametrize(
    ("launcher", "advice"),
    [
        ("Open MPI's mpirun", "mpirun --bind-to none"),
        ("srun", "srun --cpu-bind=none --cpus-per-task=…"),
        ("aprun", "aprun -cc none -d …"),
        ("PALS", "the launcher's flag against binding"),
    ],
)
def test_ranks_bound_to_too_few_cpus(launcher: str, advice: str) -> None:
    ranks = bound(range(1), range(1), launcher=launcher, scheduler_cpus=8)
    assert told(ranks) == [f"only 1 of 8 CPUs are usable: {launcher} has bound the ranks; add {advice}  [a]"]


@pytest.mark.parametrize(
    ("ranks", "options"),
    [
        (alike(2, scheduler_cpus=8), {}),
        (alike(2, scheduler_cpus=None), {}),
        (bound(range(4), range(4, 8), scheduler_cpus=8), {}),  # bound, but nothing is lost
        (bound(range(1), scheduler_cpus=8), {"num_cpus": 8}),  # the user knows better
        (bound(range(8), cpu_limit=4, scheduler_cpus=8), {}),  # a quota is no binding
    ],
)
def test_no_warning_where_all_cpus_are_used(ranks: list[RankResources], options: dict[str, Any]) -> None:
    assert told(ranks, **options) == []


def test_stores_that_fit_one_by_one_but_not_together_go_to_disk() -> None:
    small, large = alike(2, shm=100 * 2**20), alike(2, shm=200 * 2**20)
    assert [node.store_dir for node in divided(small)] == [node.temp_dir for node in divided(small)]
    assert [node.store_dir for node in divided(large)] == ["", ""]
    assert [node.store_dir for node in divided(small, one_per_host=True)] == [""]


def test_stores_that_were_asked_for_go_to_disk_together() -> None:
    ranks = alike(2, shm=10 * GIB, memory=100 * GIB)
    assert all(node.store_dir for node in divided(ranks, object_store_memory="6G"))
    assert not any(node.store_dir for node in divided(ranks, object_store_memory="5G"))


GRANT = "the job has 2 of this host's CPUs, and Ray uses no more, though nothing keeps it from 8: "


@pytest.mark.parametrize(
    ("ranks", "wanted", "warnings"),
    [
        (alike(1, scheduler_cpus=2), [2], [f"{GRANT}ask the scheduler for more, or say --num-cpus  [a]"]),
        (alike(3, scheduler_cpus=8), [3, 3, 2], []),
        (bound(range(2), scheduler_cpus=2), [2], []),  # the scheduler has bound it
        (alike(1, scheduler_cpus=2, cpu_limit=1), [1], []),
        (alike(1, scheduler_cpus=2, launcher="aprun"), [8], []),  # the figure of the host that runs the script
    ],
)
def test_the_scheduler_grants_no_more(ranks: list[RankResources], wanted: list[int], warnings: list[str]) -> None:
    assert cpus(ranks) == wanted
    assert told(ranks) == warnings


def test_the_user_may_take_more_than_was_granted() -> None:
    assert cpus(alike(1, scheduler_cpus=2), num_cpus=8) == [8]
    assert told(alike(1, scheduler_cpus=2), num_cpus=8) == []


def test_what_the_scheduler_says_of_each_host_counts() -> None:
    """mpiexec has brought the first host's word to all ranks."""
    ranks = [rank_resources(0, "a", scheduler_cpus=2), rank_resources(1, "b", scheduler_cpus=2), rank_resources(2, "c")]
    assert cpus(share.with_granted_cpus(ranks, {"a": 2, "b": 6})) == [2, 6, 8]


def test_a_small_shm_is_told_in_mebibytes() -> None:
    (warning,) = told(alike(2, shm=100 * 2**20))
    assert warning.startswith("/dev/shm has 100 MiB free")


def test_a_warning_of_many_hosts_is_told_once_with_their_names() -> None:
    ranks = [rank_resources(rank, f"n{rank:02}", warnings=("only 1024 files",)) for rank in range(20)]
    assert told(ranks) == ["only 1024 files  [n00, n01, n02, n03, n04, n05 and 14 more]"]


def test_a_warning_of_all_ranks_of_a_host_names_it_once() -> None:
    assert told(alike(4, warnings=("only 1024 files",))) == ["only 1024 files  [a]"]


def test_the_object_store_fits_the_address_space_of_a_process() -> None:
    """It is mapped as a whole; 4 GiB of each process are for the rest."""
    def stores(space: int | None) -> list[int]:
        ranks = [rank_resources(rank, address_space=space) for rank in (0, 1)]
        return [node.object_store for node in divided(ranks)]

    assert stores(6 * GIB) == [2 * GIB, 2 * GIB]
    assert stores(3 * GIB) == [OBJECT_STORE_MINIMUM, OBJECT_STORE_MINIMUM]
    assert stores(None) == stores(99 * GIB)
    assert stores(None)[0] > 2 * GIB
