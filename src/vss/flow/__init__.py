"""Optical flow between neighbouring frames, by OpenCV's DIS or by RAFT: the stage that stores it, and RAFT itself."""
