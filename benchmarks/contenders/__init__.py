"""The explainers that ``peers.py`` measures side by side: one file for each peer, and one for Sightline.

Nothing here imports a peer, torch or an engine before it is opened: every measurement is a process of its own, whose
memory holds one contender and no other.
"""
