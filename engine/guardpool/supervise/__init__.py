"""The supervisor's thread: births and deaths of workers, frames to and from them, deadlines and memory."""
