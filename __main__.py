"""python -m combo_avs"""

from .cli import main

main()
