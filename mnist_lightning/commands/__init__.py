"""Commands that use a trained network; each has a main()."""
