"""Too little memory, at compilation and at run time, on the device and on the host."""

from experiments.faults.bench import Attempts, Bench, expect_exit, wait_for_exit

ADDRESS_BYTES = 10 * 2**30
"""The address space of a run that is to have too little memory. JAX alone reserves a third of it."""

COMPILED_STEPS = "jit_steps"
"""The name under which XLA compiles the loop over training steps (gan.parallel.sharding)."""

NO_MEMORY_TO_COMPILE = f"""
import jax
from jax._src import compiler
compile_ = compiler.backend_compile_and_load
used = "Ran out of memory in memory space hbm. Used 20.00G of 15.75G"
def fail(backend, module, *arguments, **keywords):
    if {COMPILED_STEPS!r} in str(module.operation.attributes["sym_name"]):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: " + used)
    return compile_(backend, module, *arguments, **keywords)
compiler.backend_compile_and_load = fail
"""


def memory(bench: Bench) -> Attempts:
    """Out of memory at compilation and at run"""

    def too_little(fault: str = "", **fields: object) -> str:
        workdir = bench.new_folder("memory")
        limit = "" if fault else f"ulimit -v {ADDRESS_BYTES // 1024}"
        environment = bench.environment | {"JAX_COMPILATION_CACHE_DIR": str(bench.new_folder("programs"))}
        process = bench.launch(workdir, fault=fault, prefix=limit, environment=environment, **fields)
        advice = ("config.batch_size", "config.microbatches", "data.on_device")
        return expect_exit(wait_for_exit(process), 2, "out of memory", *advice)

    yield "at compilation", lambda: too_little(NO_MEMORY_TO_COMPILE)
    yield "at run: a batch of 2^25", lambda: too_little(batch_size=2**25, steps=8)
    yield "at run: a width of 2^18", lambda: too_little(generator__width=2**18)
    yield (
        "on the host: 1,797 images of 2048 x 2048",
        lambda: too_little(data__image_size=(2048, 2048), data__on_device="always"),
    )
