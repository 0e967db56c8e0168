"""The rollout's decisions: what a canary's evidence and people's wishes make of the state.

Lives here: the nouns (`model`; of what is seen, `readings`), consumption of evidence (`windows`),
what holds a step (`gate`), people's commands (`commands`), the moves and the machine (`moves`, `reconcile`), what is told to
the outside (`conditions`). The same core runs on one machine and on Kubernetes.
May not live here: anything that observes or acts; statistics (`domain.evalues`, `domain.evidence`).
"""
