"Build and install `lth_nb`; every setting lives in settings.ini."
from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

here = Path(__file__).parent
parser = ConfigParser(delimiters=["="], interpolation=None)
parser.read(here / "settings.ini", encoding="utf-8")
settings = parser["DEFAULT"]
def words(key):
    return settings.get(key, "").split()
EXTRAS = ("data", "run", "slurm", "networks", "export", "hub")
extras = {extra: words(f"{extra}_requirements") for extra in EXTRAS}

SHIPPED = [
    "nbs/Snakefile", "nbs/runs/*.ipynb", "nbs/papers/*.ipynb", "nbs/studies/*.yaml", "nbs/profiles/*/config.yaml",
    "data/papers/*.csv", "data/papers/*.yaml"
]


# how fast training is beside other code is measured in a checkout; the wheel leaves it out
CHECKOUT_ONLY = (
    "benchmark", "contest", "gpu_session", "measurements", "mini_study", "plain_loop", "precision", "workloads"
)


class build_with_notebooks(build_py):
    "A wheel also holds what a study needs at run time, under lth_nb/_shipped, and leaves the benchmark out."
    def find_package_modules(self, package, package_dir):
        return [m for m in super().find_package_modules(package, package_dir) if m[1] not in CHECKOUT_ONLY]

    def run(self):
        super().run()
        for pattern in SHIPPED:
            for file in here.glob(pattern):
                target = Path(self.build_lib, "lth_nb", "_shipped", file.relative_to(here))
                self.mkpath(str(target.parent))
                self.copy_file(str(file), str(target))


setup(
    name=settings["lib_name"],
    version=settings["version"],
    description=settings["description"],
    keywords=settings["keywords"],
    author=settings["author"],
    author_email=settings["author_email"],
    license="Apache-2.0",
    long_description=(here / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    cmdclass={"build_py": build_with_notebooks},
    packages=find_packages(include=["lth_nb", "lth_nb.*"]),
    include_package_data=True,
    python_requires=f">={settings['min_python']}",
    install_requires=words("requirements"),
    extras_require=extras | {"all": [requirement for extra in EXTRAS for requirement in extras[extra]]},
    entry_points={"console_scripts": words("console_scripts"), "nbdev": ["lth_nb=lth_nb._modidx:d"]},
    zip_safe=False,
)
