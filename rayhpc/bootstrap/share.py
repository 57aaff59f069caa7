"""Each host's CPUs, GPUs, memory and /dev/shm, divided among its ranks. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import replace

from rayhpc import paths, units
from rayhpc.errors import configuration, shortened
from rayhpc.model import Gpus, NodeSpec, RankResources
from rayhpc.options import AMPLE_ADDRESS_SPACE, OBJECT_STORE_MINIMUM, Options

# Beyond 30 % of memory Ray warns.
_OBJECT_STORE_SHARE = 0.3
_MARGIN = 0.9


def divide(found: Sequence[RankResources], options: Options, run_id: str) -> tuple[NodeSpec, ...]:
    """Each host's share divided among its ranks, at least one CPU each; with one_per_host its first rank has all."""
    by_host: dict[str, list[RankResources]] = defaultdict(list)
    for entry in found:
        by_host[entry.host_id].append(entry)
    nodes = [node for ranks in by_host.values() for node in _divide_host(ranks, options.one_per_host, options, run_id)]
    return tuple(sorted(nodes, key=lambda node: node.rank))


def _divide_host(ranks: Sequence[RankResources], one_per_host: bool, options: Options, run_id: str) -> list[NodeSpec]:
    chosen = ranks[:1] if one_per_host else ranks
    count = len(chosen)
    cpus = _divide_cpus(ranks, chosen)
    gpus = _divide_gpus(ranks, count)
    memory = int(min(entry.memory for entry in ranks) * _MARGIN) // count
    free = min(entry.shm for entry in ranks)
    shm = int(free * _MARGIN) // count
    mappable = min((entry.address_space - AMPLE_ADDRESS_SPACE for entry in ranks if entry.address_space), default=shm)
    nodes = [
        _with_options(
            NodeSpec(
                rank=entry.rank,
                host=entry.host,
                address=entry.interfaces[0].address,
                cpus=cpus[place],
                gpus=gpus[place],
                memory=memory,
                object_store=max(OBJECT_STORE_MINIMUM, min(int(memory * _OBJECT_STORE_SHARE), shm, mappable)),
                temp_dir=paths.private_dir(entry.temp_base, run_id, entry.rank),
            ),
            options,
        )
        for place, entry in enumerate(chosen)
    ]
    # Each raylet alone would find that its own store fits; what does not fit in /dev/shm ends whoever writes to it.
    fits = sum(node.object_store for node in nodes) <= free
    return nodes if fits else [replace(node, store_dir=node.temp_dir) for node in nodes]


def with_granted_cpus(found: Sequence[RankResources], granted: Mapping[str, int]) -> list[RankResources]:
    """The ranks with what the scheduler has granted of each host, for those that it names."""
    return [replace(entry, scheduler_cpus=granted.get(entry.host, entry.scheduler_cpus)) for entry in found]


def host_cpus(ranks: Sequence[RankResources]) -> int:
    """CPUs that the ranks of one host may use together: by affinity, by the cgroup, and by the scheduler's grant."""
    granted = _granted_cpus(ranks)
    return min(_usable_cpus(ranks), granted) if granted else _usable_cpus(ranks)


def _usable_cpus(ranks: Sequence[RankResources]) -> int:
    """CPUs that nothing keeps the ranks of one host from using."""
    together = len(frozenset().union(*(entry.cpus for entry in ranks)))
    limits = [entry.cpu_limit for entry in ranks if entry.cpu_limit is not None]
    return max(1, min([together, *limits]))


def _granted_cpus(ranks: Sequence[RankResources]) -> int | None:
    """CPUs of the job on this host; None where nobody says. aprun's ranks are not where its scheduler's script is."""
    figures = [entry.scheduler_cpus for entry in ranks if entry.scheduler_cpus and entry.launcher != "aprun"]
    return max(figures, default=None)


def _divide_cpus(ranks: Sequence[RankResources], chosen: Sequence[RankResources]) -> list[int]:
    """Ranks that are bound to CPUs of their own keep them; else the host's CPUs are shared out evenly."""
    total = host_cpus(ranks)
    if len(chosen) > 1 and sum(len(entry.cpus) for entry in chosen) == total:
        return [len(entry.cpus) for entry in chosen]
    return _even(total, len(chosen), least=1)


def _even(total: int, shares: int, least: int = 0) -> list[int]:
    """total in whole shares that differ by one at most, the larger ones first."""
    return [max(least, total // shares + (place < total % shares)) for place in range(shares)]


def _divide_gpus(ranks: Sequence[RankResources], count: int) -> list[Gpus]:
    """Ranks that see GPUs of their own keep them; else the host's list is cut, that of each variable alike."""
    lists = [entry.gpus.devices or entry.gpus.ids for entry in ranks]
    if count > 1 and count == len(ranks) and sum(map(len, lists)) == len({gpu for ids in lists for gpu in ids}):
        return [replace(entry.gpus, devices=()) for entry in ranks]
    names = [entry.variable for entry in ranks[0].gpus.all_variables]
    columns = [_cut(variable, _ids(variable, ranks), count) for variable in names]
    return [replace(first, others=tuple(others)) for first, *others in zip(*columns, strict=True)]


def _ids(variable: str, ranks: Sequence[RankResources]) -> tuple[str, ...]:
    """All ids that a variable has on the ranks of a host, each once."""
    named = [gpus.ids for entry in ranks for gpus in entry.gpus.all_variables if gpus.variable == variable]
    return tuple(dict.fromkeys(gpu for ids in named for gpu in ids))


def _cut(variable: str, ids: tuple[str, ...], count: int) -> list[Gpus]:
    """A list of ids in so many slices."""
    sizes = _even(len(ids), count)
    starts = [sum(sizes[:place]) for place in range(count)]
    return [Gpus(variable, ids[start : start + size]) for start, size in zip(starts, sizes, strict=True)]


def _with_options(node: NodeSpec, options: Options) -> NodeSpec:
    """The user's figures in place of the found ones."""
    found = node.memory
    store = units.size(options.object_store_memory) if options.object_store_memory else node.object_store
    memory = units.size(options.memory) if options.memory else max(found - store, OBJECT_STORE_MINIMUM)
    cpus = node.cpus if options.num_cpus is None else options.num_cpus
    gpus = node.gpus if options.num_gpus is None else _chosen_gpus(node, options.num_gpus)
    return replace(node, cpus=cpus, gpus=gpus, memory=memory, object_store=store)


def _chosen_gpus(node: NodeSpec, number: int) -> Gpus:
    """The first GPUs of the node's list; ids are made up only where none was found, as for devices we cannot see."""
    found = node.gpus.ids
    if found and number > len(found):
        raise configuration(
            f"--num-gpus {number}, but {node.place} has {len(found)}",
            f"{node.gpus.variable}={','.join(found)}",
            next_step="ask for fewer, or start fewer ranks on each host",
        )
    first, *others = (replace(entry, ids=entry.ids[:number]) for entry in node.gpus.all_variables)
    return replace(first, ids=first.ids or tuple(str(n) for n in range(number)), others=tuple(others))


def warnings(found: Sequence[RankResources], nodes: Sequence[NodeSpec], options: Options) -> list[str]:
    """What all should know before Ray starts: bound ranks, small /dev/shm, each rank's own notices, once each."""
    by_host: dict[str, list[RankResources]] = defaultdict(list)
    for entry in found:
        by_host[entry.host_id].append(entry)
    hosts_of: dict[str, list[str]] = defaultdict(list)
    on_disk = frozenset(node.rank for node in nodes if node.store_dir)
    for ranks in by_host.values():
        for text in [
            *_binding(ranks, options),
            *_grant(ranks, options),
            *_shm(ranks, on_disk),
            *(w for entry in ranks for w in entry.warnings),
        ]:
            hosts_of[text].append(ranks[0].host)
    return [f"{text}  [{shortened(list(dict.fromkeys(hosts)))}]" for text, hosts in hosts_of.items()]


def _binding(ranks: Sequence[RankResources], options: Options) -> Iterable[str]:
    figure = max((entry.scheduler_cpus or 0 for entry in ranks), default=0)
    usable = host_cpus(ranks)
    limit = ranks[0].cpu_limit
    if options.num_cpus is not None or usable >= figure or (limit is not None and limit <= usable):
        return
    launcher = ranks[0].launcher
    yield f"only {usable} of {figure} CPUs are usable: {launcher} has bound the ranks; add {unbinding(launcher)}"


def unbinding(launcher: str) -> str:
    """What a user adds to the launcher's command so that ranks are not bound to CPUs."""
    return {
        "srun": "srun --cpu-bind=none --cpus-per-task=…",
        "aprun": "aprun -cc none -d …",
    }.get(launcher, "mpirun --bind-to none" if "Open MPI" in launcher else "the launcher's flag against binding")


def _grant(ranks: Sequence[RankResources], options: Options) -> Iterable[str]:
    granted, usable = _granted_cpus(ranks), _usable_cpus(ranks)
    if options.num_cpus is None and granted is not None and granted < usable:
        yield (
            f"the job has {granted} of this host's CPUs, and Ray uses no more, though nothing keeps it from {usable}: "
            "ask the scheduler for more, or say --num-cpus"
        )


def _shm(ranks: Sequence[RankResources], on_disk: Set[int]) -> Iterable[str]:
    if any(entry.rank in on_disk for entry in ranks):
        free = min(entry.shm for entry in ranks) >> 20
        yield f"/dev/shm has {free} MiB free: Ray's object store goes to disk and will be slow"
