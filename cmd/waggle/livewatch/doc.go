// Package livewatch receives a livestream by RTSP, RTMP or HLS, measures how it
// arrives, and writes it to a file: MPEG-TS from RTSP and RTMP, fragmented MP4
// from HLS.
package livewatch
