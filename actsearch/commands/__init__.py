"""Commands: one file each, with its options, its example and what it runs. Heavy imports happen as
they run, so that --help is instant."""
