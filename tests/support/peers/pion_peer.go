// A caller made of Pion: sends Opus packets, counts what comes back, and talks over a data channel.
//
//	pion_peer URL PACKETS SECONDS CHANNEL_BYTES
//
// PACKETS is a file of Opus packets of 20 ms, each behind its length (u16, big-endian). Prints one line of JSON.
package main

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/pion/webrtc/v3"
	"github.com/pion/webrtc/v3/pkg/media"
)

type report struct {
	Sent      int64  `json:"sent"`
	Received  int64  `json:"received"`
	Channel   bool   `json:"channel"`
	Messages  int64  `json:"messages"`
	State     string `json:"state"`
	DTLSState string `json:"dtls"`
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func readPackets(name string) [][]byte {
	data, err := os.ReadFile(name)
	check(err)
	var packets [][]byte
	for len(data) >= 2 {
		size := int(binary.BigEndian.Uint16(data))
		packets = append(packets, data[2:2+size])
		data = data[2+size:]
	}
	return packets
}

func exchange(url, offer string) (string, string) {
	response, err := http.Post(url, "application/sdp", bytes.NewBufferString(offer))
	check(err)
	defer response.Body.Close()
	answer, err := io.ReadAll(response.Body)
	check(err)
	if response.StatusCode != http.StatusCreated {
		check(fmt.Errorf("HTTP %d: %s", response.StatusCode, answer))
	}
	return string(answer), response.Header.Get("Location")
}

func main() {
	url, packets := os.Args[1], readPackets(os.Args[2])
	seconds, err := strconv.ParseFloat(os.Args[3], 64)
	check(err)
	channelBytes, err := strconv.Atoi(os.Args[4])
	check(err)

	connection, err := webrtc.NewPeerConnection(webrtc.Configuration{})
	check(err)
	track, err := webrtc.NewTrackLocalStaticSample(
		webrtc.RTPCodecCapability{MimeType: webrtc.MimeTypeOpus, ClockRate: 48000, Channels: 2}, "audio", "pion")
	check(err)
	_, err = connection.AddTrack(track)
	check(err)

	var result report
	connected := make(chan struct{})
	connection.OnConnectionStateChange(func(state webrtc.PeerConnectionState) {
		if state == webrtc.PeerConnectionStateConnected {
			close(connected)
		}
	})
	connection.OnTrack(func(remote *webrtc.TrackRemote, _ *webrtc.RTPReceiver) {
		for {
			if _, _, err := remote.ReadRTP(); err != nil {
				return
			}
			atomic.AddInt64(&result.Received, 1)
		}
	})
	if channelBytes > 0 {
		channel, err := connection.CreateDataChannel("oai-events", nil)
		check(err)
		channel.OnOpen(func() {
			result.Channel = true
			text, _ := json.Marshal(map[string]string{"type": "test", "text": string(bytes.Repeat([]byte("x"), channelBytes))})
			check(channel.SendText(string(text)))
		})
		channel.OnMessage(func(webrtc.DataChannelMessage) { atomic.AddInt64(&result.Messages, 1) })
	}

	offer, err := connection.CreateOffer(nil)
	check(err)
	check(connection.SetLocalDescription(offer))
	answer, _ := exchange(url+"/v1/realtime/calls", connection.LocalDescription().SDP)
	check(connection.SetRemoteDescription(webrtc.SessionDescription{Type: webrtc.SDPTypeAnswer, SDP: answer}))
	select {
	case <-connected:
	case <-time.After(15 * time.Second):
		check(fmt.Errorf("not connected after 15 s: %s", connection.ConnectionState()))
	}

	start := time.Now()
	for index := 0; index < int(seconds*50); index++ {
		time.Sleep(time.Until(start.Add(time.Duration(index) * 20 * time.Millisecond)))
		check(track.WriteSample(media.Sample{Data: packets[index%len(packets)], Duration: 20 * time.Millisecond}))
		result.Sent++
	}
	time.Sleep(500 * time.Millisecond)
	result.State = connection.ConnectionState().String()
	result.DTLSState = connection.SCTP().Transport().State().String()
	line, err := json.Marshal(result)
	check(err)
	fmt.Println(string(line))
	check(connection.Close())
}
