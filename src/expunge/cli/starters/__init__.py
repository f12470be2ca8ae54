"""Task files that run as they stand: `expunge init` copies one."""
