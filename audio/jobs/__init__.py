"""What is made of a recording in the background: transcodes, waveforms, exports."""
