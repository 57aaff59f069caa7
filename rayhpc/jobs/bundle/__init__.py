"""What a job brings along: packed here, and put into its place by the job's shell."""
