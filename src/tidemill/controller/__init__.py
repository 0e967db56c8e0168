"""The rollout's reconcile loop: observe → decide → persist → act → observe.

Lives here: the driver around `domain.rollout`, and the plan made from settings; the judge, who only
observes, decides and persists, for rollouts that others carry out; what is scraped of either, and
of monitors, who are gone before they could be. Progress lives in the persisted state alone; nothing
is done that was not written before.
May not live here: a decision, or knowledge of a platform.
"""
