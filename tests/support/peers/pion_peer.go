// A caller made of Pion: sends Opus packets, counts what comes back, and talks over a data channel.
//
//	pion_peer URL PACKETS SECONDS LENGTH...
//
// PACKETS is a file of Opus packets of 20 ms, each behind its length (u16, big-endian). An event of each LENGTH in bytes
// goes out over the data channel, and is to come back as it is. Prints one line of JSON.
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
	"strings"
	"sync/atomic"
	"time"

	"github.com/pion/webrtc/v3"
	"github.com/pion/webrtc/v3/pkg/media"
)

type report struct {
	Sent      int64  `json:"sent"`
	Received  int64  `json:"received"`
	Sizes     []int  `json:"sizes"` // of the events that came back, while they are those that were sent
	Exchange  string `json:"exchange"`
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

// event returns a JSON object of so many bytes.
func event(length int) string {
	const empty = `{"type":"test","text":""}`
	return empty[:len(empty)-2] + strings.Repeat("x", length-len(empty)) + empty[len(empty)-2:]
}

// talk opens the channel, sends the events, and closes what it returns when all have come back in order.
func talk(connection *webrtc.PeerConnection, events []string, result *report) <-chan struct{} {
	answered := make(chan struct{})
	channel, err := connection.CreateDataChannel("oai-events", nil)
	check(err)
	var began time.Time
	channel.OnOpen(func() {
		began = time.Now()
		for _, event := range events {
			check(channel.SendText(event))
		}
	})
	channel.OnMessage(func(message webrtc.DataChannelMessage) {
		if !message.IsString || string(message.Data) != events[len(result.Sizes)] {
			check(fmt.Errorf("event %d came back as %d other bytes", len(result.Sizes), len(message.Data)))
		}
		result.Sizes = append(result.Sizes, len(message.Data))
		if len(result.Sizes) == len(events) {
			result.Exchange = time.Since(began).String()
			close(answered)
		}
	})
	return answered
}

func main() {
	url, packets := os.Args[1], readPackets(os.Args[2])
	seconds, err := strconv.ParseFloat(os.Args[3], 64)
	check(err)
	var events []string
	for _, argument := range os.Args[4:] {
		length, err := strconv.Atoi(argument)
		check(err)
		events = append(events, event(length))
	}

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
	answered := talk(connection, events, &result)

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
	select {
	case <-answered:
	case <-time.After(10 * time.Second):
		result.Exchange = "not all events came back"
	}
	result.State = connection.ConnectionState().String()
	result.DTLSState = connection.SCTP().Transport().State().String()
	line, err := json.Marshal(result)
	check(err)
	fmt.Println(string(line))
	check(connection.Close())
}
