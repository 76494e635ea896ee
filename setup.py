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
EXTRAS = ("data", "run", "slurm", "networks", "export")
extras = {extra: words(f"{extra}_requirements") for extra in EXTRAS}

SHIPPED = [
    "nbs/Snakefile", "nbs/runs/*.ipynb", "nbs/papers/*.ipynb", "nbs/studies/*.yaml", "nbs/profiles/*/config.yaml",
    "data/papers/*.csv", "data/papers/*.yaml"
]


class build_with_notebooks(build_py):
    "A wheel also holds what a study needs at run time, under lth_nb/_shipped."
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
