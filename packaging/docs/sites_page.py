"""docs/sites.md, made from the tables: `python packaging/docs/sites_page.py > docs/sites.md`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[2])]

from reference import plain, table

from rayhpc.cli.sites import queue_marks
from rayhpc.sites import load
from rayhpc.sites.table import Queue, Site

_PREFACE = """\
# Machines by name

Made by `packaging/docs/sites_page.py` from the tables in `rayhpc/sites/tables/`. Whoever has an account on one of these
machines says its name: the queue is chosen by hosts and time, what the site requires is asked for, and a job that no
queue would take is refused before anything is submitted.

```
rayhpc alloc sites                          # the names
rayhpc alloc sites polaris                  # one of them: queues, limits, facts, sources
rayhpc alloc submit --site polaris -A my-project -N 12 -t 120 --dry-run -- train.py
rayhpc alloc submit --site polaris -A my-project -N 12 -t 120 -- train.py
rayhpc alloc init --site polaris            # a jobscript to edit
```

`--dry-run` shows all that the table makes: the flags, the directives in the script, and the lines below `# rayhpc:
settings`. Variables are set only where they are not set yet, so `RAYHPC_INTERFACE=hsn1 rayhpc alloc submit …` counts.
`-q` names a queue instead; those that are marked *only if you name it* are never chosen. The other options are those of
[`rayhpc alloc submit`](alloc.md). A machine is never guessed from the host on which you are.

**None of these tables was tried on the machine itself.** Each is read from public documentation, of the date that it
says. What was not found there is missing, and listed as not known. `rayhpc doctor` compares the table with the host on
which it runs, where `RAYHPC_SITE` names the machine (jobs of `--site` have it) or the machine's own variables do:
[site-table](checks.md#site-table). If you are on one of them, please tell us what is wrong.

## Your own

`~/.config/rayhpc/sites/NAME.yaml` (or below `XDG_CONFIG_HOME`) describes another machine, or replaces a table of the
same name. With `extends` it says what is different:

```yaml
# ~/.config/rayhpc/sites/polaris.yaml: another conda environment, and one more file system
extends: polaris
modules: [use /soft/modulefiles, load conda/2026-01-01]
directives: ["-l filesystems=home:eagle:grand"]
```

A key replaces the whole value of the table that it extends, `queues` too. Without `extends` a table needs `title`,
`source`, `date`, `scheduler` and `queues`; a mistake is told with its line.

| key | meaning |
|---|---|
| `title`, `source`, `date` | what it is, the URLs where it is said, and of what day that text is |
| `scheduler` | a name that `rayhpc alloc submit` knows |
| `queues` | by name, the one to prefer first: `limits`, and where they differ `partition`, `qos`, `directives`, \
`cpus`, `gpus`; `note`; `only_named` (true for one that is never chosen) |
| `limits` | `{1-10: 01:00:00, 11-: 24:00:00}`: hosts, and how long a job of so many may take |
| `cpus`, `gpus` | of a host, as a job may use them; the larger figure is refused |
| `ask` | which of `cpus` and `gpus` a job has to ask for |
| `directives` | what every job needs, as a flag of the scheduler |
| `modules`, `variables`, `proxy`, `interface` | lines of the script: `module …`, `export …`, the proxies, \
`RAYHPC_INTERFACE` |
| `gpu_variable`, `scratch`, `node_local`, `internet` | facts that `rayhpc doctor` compares, or people read |
| `known_by` | variables that the machine sets on its hosts: `rayhpc doctor` knows it by them |
| `unknown` | what was looked for and not found |"""


def page() -> str:
    """The whole page."""
    sites = [load.find(file.stem, {"XDG_CONFIG_HOME": "/nowhere"}) for file in sorted(load.SHIPPED.glob("*.yaml"))]
    return "\n\n".join([_PREFACE, *(part for site in sites for part in _site(site))]) + "\n"


def _site(site: Site) -> Iterator[str]:
    yield f"## {site.name}"
    yield f"{plain(site.title)}, as its documentation says on {site.date}."
    yield table(("queue", "hosts and time", ""), [_queue(queue) for queue in site.queues])
    found = [
        ("scheduler", site.scheduler),
        ("CPUs of a host", site.cpus),
        ("GPUs of a host", site.gpus),
        ("GPU variable", site.gpu_variable),
        ("required", " ".join(site.directives)),
        ("modules", "; ".join(site.modules)),
        ("variables", " ".join(f"{name}={value}" for name, value in site.variables.items())),
        ("network", site.interface),
        ("scratch", site.scratch),
        ("node-local", site.node_local),
        ("internet", f"through {site.proxy}" if site.proxy else site.internet),
        ("known by", " ".join(f"{name}={value}" for name, value in site.known_by.items())),
    ]
    rows = [(name, f"`{text}`") for name, text in found if text not in (None, "")]
    rows += [("not known", plain(text)) for text in site.unknown]
    yield table(("fact", ""), [*rows, *(("source", f"<{url}>") for url in site.source)])


def _queue(queue: Queue) -> tuple[str, str, str]:
    limits = "; ".join(limit.words for limit in queue.limits)
    return f"`{queue.name}`", limits, plain("; ".join(queue_marks(queue)))


if __name__ == "__main__":
    sys.stdout.write(page())
