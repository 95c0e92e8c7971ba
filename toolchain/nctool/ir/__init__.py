"""What a spiking network of integers is: its types, what must hold of them, bounds and connections.

NumPy only.
"""
