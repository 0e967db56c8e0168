"""The rollout's decisions: what a canary's evidence and people's wishes make of the state.

Lives here: the nouns (`model`; of what is seen, `readings`, `pairs`), consumption of evidence
(`windows`), what holds a step (`gate`, `freeze`), people's commands (`commands`), the moves and the
machine (`moves`, `reconcile`), how long it takes (`forecast`), what is told to the outside
(`conditions`, `flight`); the verdict on rollouts by others (`judge`). The same core runs on one
machine and on Kubernetes.
May not live here: anything that observes or acts; statistics (`domain.evalues`, `domain.evidence`,
`domain.paired`).
"""
