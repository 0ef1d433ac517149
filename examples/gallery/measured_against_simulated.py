# %% [markdown]
# # How far off is the simulation of my server?
#
# `vllm bench serve --save-result --save-detailed` measured a server. The same load is replayed on a simulation of that
# deployment, request by request, and the errors are printed. With a file of your own:
#
# ```console
# $ python examples/gallery/measured_against_simulated.py result.json deployment.toml
# ```
#
# Without one, a second simulation stands in for the server: a GPU that is a tenth slower than the one in the deployment
# file. What is to be found then is that tenth.

# %%
from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from tempfile import mkdtemp

import servecast

FILES = [argument for argument in sys.argv[1:] if argument.endswith((".json", ".toml"))]

# %% [markdown]
# ## What was measured

# %%
FOLDER = Path(mkdtemp(prefix="servecast-"))
DEPLOYMENT = """\
latency = "linear:4000,1.0,20"
num_workers = 1
max_num_seqs = 64
"""


def stand_in() -> tuple[str, str]:
    """Measure a server that is none: its iterations take 10 % longer."""
    measured, config = FOLDER / "measured.json", FOLDER / "deployment.toml"
    config.write_text(DEPLOYMENT)
    load = "--input-tokens 900 --output-tokens 120 --request-count 300 --request-rate 12 --seed 9".split()
    server = ["--config", str(config), "--latency", "linear:4400,1.1,22", "--export", f"vllm-bench={measured}"]
    subprocess.run([sys.executable, "-m", "servecast", "replay", "--quiet", *load, *server], check=True, stdout=-3)
    return str(measured), str(config)


measured, config = FILES if len(FILES) == 2 else stand_in()

# %% [markdown]
# ## Replay it
#
# Requests are sent when the client sent them. Errors are simulated against measured: below 0 the simulation is faster.

# %%
[result] = servecast.validate(measured, config=config)
errors = {figure["figure"]: figure["error_percent"] for figure in result.figures}
for figure in result.figures:
    real, simulated = (figure.get(key) for key in ("real", "servecast"))
    values = "" if real is None else f"{real:14,.2f}{simulated:14,.2f}"
    print(f"{figure['figure']:28}{values:28}{figure['error_percent']:10.1f} %")

# %% [markdown]
# ## Fit what is wrong
#
# `servecast.calibrate` takes results at two levels of load or more and gives a latency model that explains them.

# %%
print(f"Answer: the mean end-to-end latency is off by {errors['mean_e2e_ms']:+.1f} %")
