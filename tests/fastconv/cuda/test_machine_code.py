"""Every kernel of the table, compiled as for a GPU that need not be there."""

import re
import subprocess
from collections import Counter

import pytest

from fastconv.cuda import compiler
from fastconv.cuda.kernels import KERNELS

CAPABILITIES = [(8, 0), (9, 0, "a"), (10, 0)]
LISTED = (9, 0, "a")  # the others would hold the same, and listing takes longer than all else
INSTRUCTION = re.compile(r"(?m)^\s+/\*[0-9a-f]+\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_.x]+)\b")


def opcodes(cubin, folder):
    """Instructions of machine code, and how often there are which."""
    path = folder / "kernel.cubin"
    path.write_bytes(cubin)
    command = [compiler.tool("nvdisasm"), "-c", path]
    listing = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return Counter(INSTRUCTION.findall(listing))


def starting_with(found, name):
    return sum(n for opcode, n in found.items() if opcode.startswith(name))


@pytest.mark.parametrize("kernel", KERNELS, ids=lambda k: k.name)
def test_compiled_as_meant(kernel, tmp_path):
    ptx = compiler.to_ptx(kernel)
    for capability in filter(kernel.runs_on, CAPABILITIES):
        cubin, log = compiler.assemble(ptx, capability)
        assert "warning" not in log.lower(), log  # such as: asynchronous products are serialized
        registers = int(re.search(r"Used (\d+) registers", log)[1])
        assert 0 < registers <= kernel.registers, capability
        assert "0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads" in log, capability
        if capability == LISTED:
            found = opcodes(cubin, tmp_path)
            assert starting_with(found, "LDL") == starting_with(found, "STL") == 0
            for name, least in kernel.opcodes.items():
                assert starting_with(found, name) >= least, (name, found)


def test_the_assembler_refuses_nonsense():
    with pytest.raises(RuntimeError, match="ptxas refuses a kernel"):
        compiler.assemble(".version 8.0\n.target sm_80\n.nonsense", (8, 0))
