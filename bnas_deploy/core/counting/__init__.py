"""How the memory and the operations of a binary network are counted: the rules of the papers, and what they print."""
