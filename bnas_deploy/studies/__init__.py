"""Studies of the papers that can be repeated: each is declared, and one engine runs them all.

`catalogue` lists them, `study` has the parts that one is declared with, `plan` makes trials of them, `engine` runs the
trials, and `results` is what comes out. Tables and sentences are made in `bnas_deploy.report`, pictures in
`bnas_deploy.drawing`.
"""
