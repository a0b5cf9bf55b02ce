"""Looking at the labels of a project: classes, surprises and labeling functions in one picture."""

# %% [markdown]
# # Looking at the labels of a project
#
# Run as a script, `python docs/examples/look_at_the_labels.py examples/reuters/lake labels.png`, or open it as a
# notebook: every `# %%` is a cell (VS Code, PyCharm, Jupyter with jupytext). Needs `pip install matplotlib`.

# %%
import sys
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt

import warehouse
from warehouse.questions import question

LAKE = Path(sys.argv[1]) if len(sys.argv) > 1 else Path("examples/reuters/lake")
PICTURE = Path(sys.argv[2]) if len(sys.argv) > 2 else Path("labels.png")
matplotlib.use("Agg")

# %% [markdown]
# One connection is one snapshot: all figures below belong together, also while a run writes.

# %%
with warehouse.connect(LAKE) as lake:
    snapshot = lake.snapshot()
    balance = lake.pandas(question("label-balance").sql)
    surprise = lake.pandas(question("value-against-outcome").sql)
    coverage = lake.pandas(question("function-coverage").sql).head(12)
    answers = int(lake.scalar("SELECT count(*) FROM gold_labels"))
    simulated = int(lake.scalar("SELECT count(*) FROM gold_labels WHERE simulated"))

# %%
figure, (left, middle, right) = plt.subplots(1, 3, figsize=(15, 4.8), layout="constrained")

rows = range(len(balance))
left.barh(rows, balance["predicted"], color="#9ec5e8", label="end model")
left.barh(rows, balance["gold"], left=balance["predicted"], color="#1f5f99", label="people")
left.set_yticks(rows, balance["label"])
left.invert_yaxis()
left.set_xlabel("labels")
left.set_title("Labels per class")
left.legend(frameon=False)

middle.bar(surprise["value_group"], surprise["surprise"].fillna(0), color="#c9772b")
middle.set_ylim(0, 1)
groups = zip(surprise["value_group"], surprise["items"], strict=True)
middle.set_xticks(surprise["value_group"], [f"{group}\nn={n}" for group, n in groups])
middle.set_xlabel("value when chosen, 1 the highest fifth")
middle.set_ylabel("share of answers the model did not expect")
middle.set_title("Did valuable items surprise the model?")

names = range(len(coverage))
right.barh(names, coverage["coverage"], color="#4f8a5b")
right.set_yticks(names, coverage["lf_name"])
right.invert_yaxis()
right.set_xlabel("share of items it votes on")
right.set_title("Labeling functions that reach furthest")

for axes in (left, middle, right):
    axes.spines[["top", "right"]].set_visible(False)
people = f"{answers} answers, {simulated} of them simulated" if simulated else f"{answers} answers"
figure.suptitle(f"Snapshot {snapshot}: {people}")
figure.savefig(PICTURE, dpi=110)
print(f"{PICTURE}: snapshot {snapshot}, {answers} answers")
