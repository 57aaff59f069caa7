"""The package of rayhpc for Spack; a test compares its requirements with setup.cfg."""

from spack_repo.builtin.build_systems.python import PythonPackage

from spack.package import *


class PyRayhpc(PythonPackage):
    """Starts a Ray cluster inside a batch job, runs an RLlib driver on it, and shuts everything down."""

    homepage = "https://github.com/rayhpc/rayhpc"
    git = "https://github.com/rayhpc/rayhpc.git"

    license("Apache-2.0")

    version("main", branch="main")
    version("0.1.0", tag="v0.1.0")

    # Spack's py-ray may be older than what rayhpc needs: without it install Ray by pip, into a virtual environment that
    # sees Spack's packages.
    variant("ray", default=True, description="Take Ray from Spack as well")

    depends_on("python@3.10:", type=("build", "run"))
    depends_on("py-setuptools@68:", type="build")

    depends_on("py-ray@2.54:", type="run", when="+ray")
    depends_on("py-mpi4py@4:", type="run")
    depends_on("py-psutil@5.9:", type="run")
    depends_on("py-click@8.1:", type="run")
    depends_on("py-rich@13:", type="run")
    depends_on("py-pyyaml@6:", type="run")
    depends_on("py-filelock@3.13:", type="run")
