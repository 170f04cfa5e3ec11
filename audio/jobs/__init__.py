"""Jobs on a recording: transcodes, waveforms, uploads and exports."""
